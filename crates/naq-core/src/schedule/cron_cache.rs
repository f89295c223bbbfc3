//! Parsed cron expressions, shared between schedules.

use std::collections::HashMap;
use std::sync::Arc;

use naq_cron::{Cron, CronError};

/// Parsed cron expressions. Schedules with the same expression share one.
#[derive(Debug, Default)]
pub struct CronCache(HashMap<String, Arc<Cron>>);

impl CronCache {
    pub(super) fn get(&mut self, expression: &str) -> Result<Arc<Cron>, CronError> {
        if let Some(known) = self.0.get(expression) {
            return Ok(known.clone());
        }
        let cron = Arc::new(Cron::parse(expression)?);
        self.0.insert(expression.to_owned(), cron.clone());
        Ok(cron)
    }

    /// Removes the expressions that no schedule uses.
    pub fn evict_unused(&mut self) {
        self.0.retain(|_, cron| Arc::strong_count(cron) > 1);
    }

    /// The number of cached expressions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the cache holds no expression.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
