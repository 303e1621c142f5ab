//! Progress, metrics files: the only place that prints.
