//! Verbs as a user has them, beside what README.md already shows.

mod run;
