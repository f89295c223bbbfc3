//! The runner, with real processes and real kills.

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
mod output;
#[cfg(test)]
mod starting;
