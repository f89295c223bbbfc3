//! Routing of jobs to workers with labels.

pub(crate) mod label_routes;
