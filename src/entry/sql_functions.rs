//! The SQL functions, as the server calls them by the names in `sql/`.
//!
//! Arguments and results are converted by pgrx, as `#[pg_extern]` would do it; but that raises errors again by itself, and
//! functions of users, which run as parts of views and of indexes, raise errors that are to leave by [`guard`].

use crate::functions::{
    self, calibrate, check, info, last_scan, models, prewarm, recall, reset_query_sample, train,
};
use crate::pg::guard::guard;
use pgrx::callconv::{ArgAbi, Args, CallCx, FcInfo, RetAbi};
use pgrx::{PgMemoryContexts, pg_sys};

/// Exports functions, each with the names of its arguments in their order.
macro_rules! sql_functions {
    ($($module:ident::$name:ident($($argument:ident),*);)*) => {$(
        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name), "_wrapper"))]
            extern "C-unwind" fn info() -> &'static pg_sys::Pg_finfo_record {
                const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
                &VERSION_1
            }

            #[unsafe(export_name = concat!(stringify!($name), "_wrapper"))]
            unsafe extern "C-unwind" fn call(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
                guard(|| {
                    // SAFETY: the server calls the function with arguments of the types that `sql/` declares, which are those
                    // of the Rust function; where that takes no `Option`, it is declared STRICT.
                    unsafe {
                        answer(call, |_arguments| {
                            $(let $argument = next(_arguments);)*
                            $module::$name($($argument),*)
                        })
                    }
                })
            }
        };
    )*};
}

sql_functions! {
    calibrate::distillvq_calibrate(index, queries, query_column);
    check::distillvq_check(index, heap);
    functions::distillvq_metric_cosine();
    functions::distillvq_metric_ip();
    functions::distillvq_metric_l2();
    info::distillvq_index_info(index);
    info::distillvq_index_info_or_null(index);
    last_scan::distillvq_last_scan();
    models::distillvq_drop_model(name, force);
    models::distillvq_export_model(name);
    models::distillvq_import_model(name, body, replace);
    models::distillvq_model_owner_in(name);
    models::distillvq_model_owner_out(role);
    prewarm::distillvq_prewarm(index);
    recall::distillvq_recall(index, k, sample, queries, query_column);
    reset_query_sample::distillvq_reset_query_sample(index);
    train::distillvq_train(
        table, column, model, metric, queries, query_column, lists, subquantizers, bits, assignments, seed, loss
    );
    train::distillvq_train_index(index, queries, query_column, seed, loss);
}

/// Answers a call, of a function that returns a set as well.
///
/// # Safety
/// `call` must be the server's, and `run` take the arguments that it has.
unsafe fn answer<'a, R: RetAbi>(
    call: pg_sys::FunctionCallInfo,
    run: impl FnOnce(&mut Args<'_, 'a>) -> R,
) -> pg_sys::Datum {
    // SAFETY: as promised; a result is put where it was prepared for.
    unsafe {
        let mut call = FcInfo::<'a>::from_ptr(call);
        let result = match R::check_and_prepare(&mut call) {
            CallCx::WrappedFn(memory) => {
                let mut arguments = call.args();
                let outcome = PgMemoryContexts::For(memory).switch_to(|_| run(&mut arguments));
                outcome.to_ret()
            }
            CallCx::RestoreCx => R::ret_from_fcx(&mut call),
        };
        R::box_ret_in(&mut call, result).sans_lifetime()
    }
}

/// The next argument.
///
/// # Safety
/// It must be of this type, and not be NULL if that has no NULL.
unsafe fn next<'a, T: ArgAbi<'a>>(arguments: &mut Args<'_, 'a>) -> T {
    // SAFETY: as promised.
    let argument = unsafe { arguments.next_arg_unchecked() };
    argument.unwrap_or_else(|| unreachable!("a function is declared with too few arguments"))
}
