//! `amvalidate`: whether an operator class fits the access method (compare `bloom`'s blvalidate.c).

use crate::pg::filter_columns::{FilterType, comparison_of, label_comparison_of};
use crate::pg::opclass::{DISTANCE_PROCEDURE, METRIC_PROCEDURE};
use crate::pg::text;
use pgrx::pg_sys::{self, Oid, panic::ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::CStr;

/// The only strategy of vectors: the ordering operator.
const ORDER_STRATEGY: i16 = 1;

/// An operator class, as far as it matters here.
struct Opclass {
    name: String,
    family: Oid,
    input: Oid,
    stored: Oid,
}

/// Checks an operator class and the family it belongs to; says what is wrong as INFO and returns whether all is right.
pub fn validate(class: Oid) -> bool {
    let Some(class) = read_class(class) else {
        return false;
    };
    let problems = problems(&class);
    for problem in &problems {
        let problem = format!(
            "operator class \"{}\" of access method distillvq {problem}",
            class.name
        );
        let state = PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION;
        ErrorReport::new(state, text::message(&problem), "distillvq").report(PgLogLevel::INFO);
    }
    problems.is_empty()
}

fn problems(class: &Opclass) -> Vec<String> {
    let mut problems = Vec::new();
    if class.stored != pg_sys::InvalidOid {
        problems.push("declares a storage type, which is not supported".to_owned());
    }
    if let Some(of_type) = FilterType::of_class(class.input) {
        let strategies: &[i16] = match of_type {
            FilterType::Labels => &[3, 6, 7, 8],
            _ => &[1, 2, 3, 4, 5],
        };
        problems.extend(filter_problems(class, strategies));
        return problems;
    }
    let distance = support(class, DISTANCE_PROCEDURE);
    problems.extend(wrong_support(
        distance,
        DISTANCE_PROCEDURE,
        &[class.input; 2],
        pg_sys::FLOAT8OID,
    ));
    problems.extend(wrong_support(
        support(class, METRIC_PROCEDURE),
        METRIC_PROCEDURE,
        &[],
        pg_sys::INT4OID,
    ));
    let operators = operators(class.family);
    let own = |operator: &&Operator| operator.left == class.input && operator.right == class.input;
    match operators.iter().find(own) {
        None => problems.push("is missing its ordering operator".to_owned()),
        Some(operator) if operator.function != distance => {
            problems.push("orders by another function than its support function 1".to_owned());
        }
        Some(_) => (),
    }
    problems.extend(operators.iter().filter_map(wrong_operator));
    problems
}

/// Problems of a class of filter columns: its family has the operators of these strategies for its type, and no others but comparisons.
fn filter_problems(class: &Opclass, strategies: &[i16]) -> Vec<String> {
    let operators = operators(class.family);
    let is_missing = |strategy: &i16| {
        let is_it = |operator: &Operator| {
            operator.strategy == *strategy
                && operator.left == class.input
                && operator.right == class.input
        };
        !operators.iter().any(is_it)
    };
    let missing = strategies.iter().filter(|it| is_missing(it));
    let missing = missing.map(|strategy| format!("is missing the operator of strategy {strategy}"));
    let wrong = operators.iter().filter_map(wrong_comparison);
    missing.chain(wrong).collect()
}

fn wrong_comparison(operator: &Operator) -> Option<String> {
    let strategy = operator.strategy;
    let is_known = u16::try_from(strategy)
        .is_ok_and(|it| comparison_of(it).is_some() || label_comparison_of(it).is_some());
    // SAFETY: a catalog look-up.
    let returns = unsafe { pg_sys::get_op_rettype(operator.name) };
    let is_right = is_known
        && operator.purpose == pg_sys::AMOP_SEARCH
        && returns == pg_sys::BOOLOID
        && FilterType::of_class(operator.left).is_some()
        && FilterType::of_class(operator.right).is_some();
    let name = operator.name.to_u32();
    (!is_right).then(|| {
        format!(
            "contains operator {name} for strategy {strategy}, which is no comparison to search by"
        )
    })
}

fn wrong_operator(operator: &Operator) -> Option<String> {
    let name = operator.name.to_u32();
    if operator.strategy != ORDER_STRATEGY || operator.purpose != pg_sys::AMOP_ORDER {
        return Some(format!(
            "contains operator {name} for strategy {}, not for ordering",
            operator.strategy
        ));
    }
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        let float = pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::OPFAMILYOID as i32,
            pg_sys::Datum::from(operator.sort_family),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        );
        let sorts = pg_sys::get_opfamily_member(
            operator.sort_family,
            pg_sys::FLOAT8OID,
            pg_sys::FLOAT8OID,
            pg_sys::BTLessStrategyNumber as i16,
        );
        if !float
            || sorts == pg_sys::InvalidOid
            || pg_sys::get_op_rettype(operator.name) != pg_sys::FLOAT8OID
        {
            return Some(format!(
                "contains operator {name}, which does not order by double precision"
            ));
        }
    }
    None
}

fn wrong_support(function: Oid, number: u16, arguments: &[Oid], result: Oid) -> Option<String> {
    if function == pg_sys::InvalidOid {
        return Some(format!("is missing support function {number}"));
    }
    let (mut types, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: catalog look-ups of an existing function; the array has `count` elements.
    let fits = unsafe {
        let returns = pg_sys::get_func_signature(function, &mut types, &mut count);
        let given = if count > 0 {
            std::slice::from_raw_parts(types, count as usize)
        } else {
            &[]
        };
        returns == result && given == arguments
    };
    (!fits).then(|| format!("has support function {number} with a wrong signature"))
}

fn support(class: &Opclass, number: u16) -> Oid {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::get_opfamily_proc(class.family, class.input, class.input, number as i16) }
}

fn read_class(class: Oid) -> Option<Opclass> {
    // SAFETY: catalog look-ups; the row is copied before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::CLAOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(class));
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_opclass>();
        let name = text::from_c(CStr::from_ptr(row.opcname.data.as_ptr()));
        let class = Opclass {
            name,
            family: row.opcfamily,
            input: row.opcintype,
            stored: row.opckeytype,
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(class)
    }
}

/// An operator of a family.
struct Operator {
    name: Oid,
    function: Oid,
    left: Oid,
    right: Oid,
    strategy: i16,
    purpose: u8,
    sort_family: Oid,
}

fn operators(family: Oid) -> Vec<Operator> {
    let cache = pg_sys::SysCacheIdentifier::AMOPSTRATEGY as i32;
    let none = pg_sys::Datum::null();
    // SAFETY: the list has n_members entries, alive until it is released.
    unsafe {
        let list = pg_sys::SearchSysCacheList(cache, 1, pg_sys::Datum::from(family), none, none);
        let members =
            std::slice::from_raw_parts((*list).members.as_ptr(), (*list).n_members as usize);
        let operators = members
            .iter()
            .map(|&member| read_operator(&raw mut (*member).tuple))
            .collect();
        pg_sys::ReleaseCatCacheList(list);
        operators
    }
}

/// # Safety
/// `tuple` must be a row of pg_amop.
unsafe fn read_operator(tuple: pg_sys::HeapTuple) -> Operator {
    // SAFETY: as promised.
    unsafe {
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_amop>();
        Operator {
            name: row.amopopr,
            function: pg_sys::get_opcode(row.amopopr),
            left: row.amoplefttype,
            right: row.amoprighttype,
            strategy: row.amopstrategy,
            purpose: row.amoppurpose as u8,
            sort_family: row.amopsortfamily,
        }
    }
}
