//! Called by the server when it loads the library.

use crate::entry::{executor_hook, explain_hook};
use crate::pg::guard;
use crate::settings;

#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    guard::spare_backtraces();
    settings::register();
    executor_hook::install();
    explain_hook::install();
}
