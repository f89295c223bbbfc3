//! The runner, with real processes and real kills.
//!
//! A test binary of its own: a runner kills children of its process that look like orphans of its
//! jobs. In one process with it, other tests would lose their nats-servers.

#[cfg(test)]
mod confined;
mod control;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod output;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod stopped_spawner;
#[cfg(test)]
mod waiting;
