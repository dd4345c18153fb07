//! Conditions on the distance by which a scan is ordered: which distances they admit.
//!
//! The same rules serve the planner, which estimates how many rows that leaves, and the executor, which ends the search
//! there. A condition compares a monotone formula of the distance with a value: `d < t`, `1 - d > t`, `(d * -1)::real >= t`,
//! combined by AND and OR. Nothing is evaluated but arithmetic on numbers, so no condition can fail here. What is not
//! surely a limit is none.

use crate::pg::element::ElementType;
use crate::pg::vector_datum::OwnedVector;
use distillvq_ivf::distance_range::{
    Comparison, DistanceRange, Formula, Interval, Operation, Precision,
};
use pgrx::pg_sys;
use std::ffi::c_int;

/// What a condition says of the distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DistanceLimit {
    /// It admits these distances, and perhaps not all of them.
    Known(DistanceRange),
    /// It limits the distance, but by a value that is not known yet: a parameter of a plan, a sub-select that is evaluated
    /// when the first row needs it.
    Pending,
}

impl DistanceLimit {
    const NONE: Self = Self::Known(DistanceRange::ALL);

    /// What both leave.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.and(b)),
            (Self::Known(known), Self::Pending) | (Self::Pending, Self::Known(known)) => {
                if known.upper < f64::INFINITY {
                    Self::Known(known)
                } else {
                    Self::Pending
                }
            }
            _ => Self::Pending,
        }
    }

    /// What one of them leaves.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.or(b)),
            (Self::NONE, _) | (_, Self::NONE) => Self::NONE,
            _ => Self::Pending,
        }
    }
}

/// Why an expression has no value that could be used.
enum Unusable {
    /// It is NULL.
    Null,
    /// It is not known yet.
    Pending,
    /// It is nothing that is understood.
    Unknown,
}

/// What an expression is evaluated with.
struct Scope {
    /// The distance.
    order: *mut pg_sys::Node,
    /// Null while the query is planned: no parameter has a value then.
    context: *mut pg_sys::ExprContext,
}

/// What a condition says about the distance by which a scan is ordered.
///
/// # Safety
/// Condition and order must be expressions of a plan, the context null or what they are evaluated in.
pub unsafe fn limit_of(
    clause: *mut pg_sys::Node,
    order: *mut pg_sys::Node,
    context: *mut pg_sys::ExprContext,
) -> DistanceLimit {
    // SAFETY: as promised.
    unsafe { Scope { order, context }.limit(clause) }
}

impl Scope {
    unsafe fn limit(&self, clause: *mut pg_sys::Node) -> DistanceLimit {
        // SAFETY: an expression of the plan; its tag says what it is. Its depth is the user's.
        unsafe {
            pg_sys::check_stack_depth();
            match (*clause).type_ {
                pg_sys::NodeTag::T_OpExpr => self.comparison(clause),
                pg_sys::NodeTag::T_BoolExpr => {
                    let all = &*clause.cast::<pg_sys::BoolExpr>();
                    let limits = items(all.args).iter().map(|&clause| self.limit(clause));
                    match all.boolop {
                        pg_sys::BoolExprType::AND_EXPR => {
                            limits.fold(DistanceLimit::NONE, DistanceLimit::and)
                        }
                        pg_sys::BoolExprType::OR_EXPR => limits
                            .fold(DistanceLimit::Known(DistanceRange::NONE), DistanceLimit::or),
                        // The planner has turned negated comparisons into others.
                        _ => DistanceLimit::NONE,
                    }
                }
                _ => DistanceLimit::NONE,
            }
        }
    }

    unsafe fn comparison(&self, clause: *mut pg_sys::Node) -> DistanceLimit {
        // SAFETY: an expression of the plan.
        unsafe {
            let Some((operator, left, right)) = binary(clause) else {
                return DistanceLimit::NONE;
            };
            let Some(comparison) = comparison_of(operator.opfuncid) else {
                return DistanceLimit::NONE;
            };
            let (left, right) = match (self.formula(left), self.formula(right)) {
                (Ok(left), Ok(right)) => (left, right),
                // A comparison with NULL never holds.
                (Err(Unusable::Null), Ok(_)) | (Ok(_), Err(Unusable::Null)) => {
                    return DistanceLimit::Known(DistanceRange::NONE);
                }
                (Ok(formula), Err(Unusable::Pending)) => return pending(&formula, comparison),
                (Err(Unusable::Pending), Ok(formula)) => {
                    return pending(&formula, comparison.swapped());
                }
                _ => return DistanceLimit::NONE,
            };
            let range = match (left.known(), right.known()) {
                (None, Some(value)) => DistanceRange::of(&left, comparison, value),
                (Some(value), None) => DistanceRange::of(&right, comparison.swapped(), value),
                _ => DistanceRange::ALL,
            };
            DistanceLimit::Known(range)
        }
    }

    /// An expression as a formula of the distance.
    unsafe fn formula(&self, node: *mut pg_sys::Node) -> Result<Formula, Unusable> {
        // SAFETY: an expression of the plan; its tag says what it is. Its depth is the user's.
        unsafe {
            pg_sys::check_stack_depth();
            if self.is_distance(node) {
                return Ok(Formula::Distance);
            }
            let (function, arguments) = match (*node).type_ {
                pg_sys::NodeTag::T_Const => {
                    let constant = &*node.cast::<pg_sys::Const>();
                    let value = (!constant.constisnull).then_some(constant.constvalue);
                    return known(value, constant.consttype);
                }
                pg_sys::NodeTag::T_Param => {
                    let (value, of_type) = self.parameter(node)?;
                    return known(value, of_type);
                }
                pg_sys::NodeTag::T_OpExpr => {
                    let operator = &*node.cast::<pg_sys::OpExpr>();
                    (operator.opfuncid, items(operator.args))
                }
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = &*node.cast::<pg_sys::FuncExpr>();
                    (call.funcid, items(call.args))
                }
                _ => return Err(Unusable::Unknown),
            };
            let formula = match (arguments, meaning(function)) {
                (&[value], Some(Meaning::Negate)) => Formula::Negate(self.boxed(value)?),
                (&[value], Some(Meaning::Cast(precision))) => {
                    Formula::Cast(precision, self.boxed(value)?)
                }
                (&[value, digits], Some(Meaning::Round(scale))) => {
                    let digits = scale(integer(digits)?).clamp(-300, 300);
                    Formula::Round(10f64.powi(-digits), self.boxed(value)?)
                }
                (&[a, b], Some(Meaning::Apply(operation, precision))) => {
                    Formula::Apply(operation, precision, self.boxed(a)?, self.boxed(b)?)
                }
                _ => return Err(Unusable::Unknown),
            };
            Ok(formula.known().map_or(formula, Formula::Known))
        }
    }

    unsafe fn boxed(&self, node: *mut pg_sys::Node) -> Result<Box<Formula>, Unusable> {
        // SAFETY: as for `formula`.
        unsafe { self.formula(node).map(Box::new) }
    }

    /// Whether an expression is the distance, perhaps with the vectors swapped, or called by the operator's function.
    unsafe fn is_distance(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: expressions of a plan.
        unsafe {
            let Some((b, b_left, b_right)) = binary(self.order) else {
                return false;
            };
            match (*node).type_ {
                pg_sys::NodeTag::T_OpExpr => {
                    let Some((a, left, right)) = binary(node) else {
                        return false;
                    };
                    let same = a.opno == b.opno && a.inputcollid == b.inputcollid;
                    (same && self.same(left, b_left) && self.same(right, b_right))
                        || (pg_sys::get_commutator(a.opno) == b.opno
                            && self.same(left, b_right)
                            && self.same(right, b_left))
                }
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = &*node.cast::<pg_sys::FuncExpr>();
                    match *items(call.args) {
                        [left, right] => {
                            call.funcid == b.opfuncid
                                && self.same(left, b_left)
                                && self.same(right, b_right)
                        }
                        _ => false,
                    }
                }
                _ => false,
            }
        }
    }

    /// Whether two expressions have the same value: equal ones, and parameters that were given the same vector, as clients do
    /// that send a vector once for each place. While the query is planned, two parameters are taken to be so.
    unsafe fn same(&self, a: *mut pg_sys::Node, b: *mut pg_sys::Node) -> bool {
        // SAFETY: expressions of a plan; their tags say what they are.
        unsafe {
            if pg_sys::equal(a.cast(), b.cast()) {
                return true;
            }
            if (*a).type_ != (*b).type_ {
                return false;
            }
            match (*a).type_ {
                pg_sys::NodeTag::T_Param => match (self.parameter(a), self.parameter(b)) {
                    (Ok((Some(a), a_type)), Ok((Some(b), b_type))) => {
                        a_type == b_type && same_vector(a, b, a_type)
                    }
                    (Err(Unusable::Pending), Err(Unusable::Pending)) => {
                        let given = |node: *mut pg_sys::Node| {
                            let kind = (*node.cast::<pg_sys::Param>()).paramkind;
                            self.context.is_null() && kind == pg_sys::ParamKind::PARAM_EXTERN
                        };
                        given(a) && given(b)
                    }
                    _ => false,
                },
                // A cast to a number of dimensions.
                pg_sys::NodeTag::T_FuncExpr => {
                    let (a, b) = (
                        &*a.cast::<pg_sys::FuncExpr>(),
                        &*b.cast::<pg_sys::FuncExpr>(),
                    );
                    let (a_args, b_args) = (items(a.args), items(b.args));
                    let mut pairs = a_args.iter().zip(b_args);
                    a.funcid == b.funcid
                        && a_args.len() == b_args.len()
                        && pairs.all(|(&a, &b)| self.same(a, b))
                }
                _ => false,
            }
        }
    }

    /// The value of a parameter, `None` for NULL, and its type.
    unsafe fn parameter(
        &self,
        node: *mut pg_sys::Node,
    ) -> Result<(Option<pg_sys::Datum>, pg_sys::Oid), Unusable> {
        // SAFETY: a parameter of the plan. Those of the executor have their places in the context of its nodes; numbers of
        // those given from outside count from 1, and are checked.
        unsafe {
            let parameter = &*node.cast::<pg_sys::Param>();
            let Some(context) = self.context.as_ref() else {
                return Err(Unusable::Pending);
            };
            let of_type = parameter.paramtype;
            match parameter.paramkind {
                pg_sys::ParamKind::PARAM_EXEC if !context.ecxt_param_exec_vals.is_null() => {
                    let own = &*context.ecxt_param_exec_vals.add(parameter.paramid as usize);
                    if own.execPlan.is_null() {
                        Ok(((!own.isnull).then_some(own.value), of_type))
                    } else {
                        Err(Unusable::Pending)
                    }
                }
                pg_sys::ParamKind::PARAM_EXTERN => {
                    let list = context.ecxt_param_list_info;
                    let number = parameter.paramid;
                    let known = !list.is_null() && (1..=(*list).numParams).contains(&number);
                    let value = known.then(|| external_value(list, number, of_type));
                    Ok((value.flatten().ok_or(Unusable::Unknown)?, of_type))
                }
                _ => Err(Unusable::Unknown),
            }
        }
    }
}

/// A comparison of a formula with a value that is not known yet: a limit, if it bounds the distance from above.
fn pending(formula: &Formula, comparison: Comparison) -> DistanceLimit {
    let some = DistanceRange::of(formula, comparison, Interval::point(0.0));
    if some.upper < f64::INFINITY {
        DistanceLimit::Pending
    } else {
        DistanceLimit::NONE
    }
}

/// A value given from outside, `Some(None)` for NULL; `None` if there is none of the type.
unsafe fn external_value(
    list: pg_sys::ParamListInfo,
    number: c_int,
    of_type: pg_sys::Oid,
) -> Option<Option<pg_sys::Datum>> {
    let mut place = pg_sys::ParamExternData::default();
    // SAFETY: a parameter of the list; one that is fetched may lie in `place`. The type is checked, as the executor does.
    unsafe {
        let given = match (*list).paramFetch {
            Some(fetch) => {
                let place = &raw mut place;
                pg_sys::ffi::pg_guard_ffi_boundary(|| fetch(list, number, true, place))
            }
            None => (*list).params.as_mut_ptr().add(number as usize - 1),
        };
        let given = given.as_ref().filter(|given| given.ptype == of_type)?;
        Some((!given.isnull).then_some(given.value))
    }
}

/// Whether two values of a type are the same vector.
unsafe fn same_vector(a: pg_sys::Datum, b: pg_sys::Datum, of_type: pg_sys::Oid) -> bool {
    let Some(element) = ElementType::of_type(of_type) else {
        return false;
    };
    // SAFETY: values of this type that are not null.
    let [a, b] = unsafe { [a, b].map(|value| OwnedVector::copy(value, element)) };
    a == b
}

/// A number, none for NULL.
unsafe fn known(value: Option<pg_sys::Datum>, of_type: pg_sys::Oid) -> Result<Formula, Unusable> {
    let number = |datum: pg_sys::Datum| match of_type {
        pg_sys::FLOAT8OID => Some(f64::from_bits(datum.value() as u64)),
        pg_sys::FLOAT4OID => Some(f64::from(f32::from_bits(datum.value() as u32))),
        pg_sys::INT2OID => Some(f64::from(datum.value() as i16)),
        pg_sys::INT4OID => Some(f64::from(datum.value() as i32)),
        pg_sys::INT8OID => Some(datum.value() as i64 as f64),
        pg_sys::NUMERICOID => {
            // SAFETY: a numeric that is not null; out of range it is infinite.
            unsafe {
                pgrx::direct_function_call::<f64>(
                    pg_sys::numeric_float8_no_overflow,
                    &[Some(datum)],
                )
            }
        }
        _ => None,
    };
    let value = number(value.ok_or(Unusable::Null)?).filter(|value| !value.is_nan());
    let value = Formula::Known(Interval::point(value.ok_or(Unusable::Unknown)?));
    Ok(match of_type {
        pg_sys::NUMERICOID | pg_sys::INT8OID => {
            let inexact = Formula::Cast(Precision::Decimal, Box::new(value));
            inexact.known().map_or(inexact, Formula::Known)
        }
        _ => value,
    })
}

/// A constant integer.
unsafe fn integer(node: *mut pg_sys::Node) -> Result<i32, Unusable> {
    // SAFETY: an expression of the plan; its tag says what it is.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_Const {
            return Err(Unusable::Unknown);
        }
        let constant = &*node.cast::<pg_sys::Const>();
        let known = !constant.constisnull && constant.consttype == pg_sys::INT4OID;
        let value = known.then_some(constant.constvalue.value() as i32);
        value.ok_or(Unusable::Unknown)
    }
}

/// Digits behind the point that the type modifier of a `numeric` keeps (`numeric_typmod_scale` of numeric.c).
fn modifier_scale(modifier: i32) -> i32 {
    ((modifier.wrapping_sub(pg_sys::VARHDRSZ as i32) & 0x7ff) ^ 1024) - 1024
}

fn comparison_of(function: pg_sys::Oid) -> Option<Comparison> {
    Some(match function.to_u32() {
        pg_sys::F_FLOAT8LT
        | pg_sys::F_FLOAT4LT
        | pg_sys::F_FLOAT48LT
        | pg_sys::F_FLOAT84LT
        | pg_sys::F_NUMERIC_LT => Comparison::Less,
        pg_sys::F_FLOAT8LE
        | pg_sys::F_FLOAT4LE
        | pg_sys::F_FLOAT48LE
        | pg_sys::F_FLOAT84LE
        | pg_sys::F_NUMERIC_LE => Comparison::LessOrEqual,
        pg_sys::F_FLOAT8GT
        | pg_sys::F_FLOAT4GT
        | pg_sys::F_FLOAT48GT
        | pg_sys::F_FLOAT84GT
        | pg_sys::F_NUMERIC_GT => Comparison::Greater,
        pg_sys::F_FLOAT8GE
        | pg_sys::F_FLOAT4GE
        | pg_sys::F_FLOAT48GE
        | pg_sys::F_FLOAT84GE
        | pg_sys::F_NUMERIC_GE => Comparison::GreaterOrEqual,
        pg_sys::F_FLOAT8EQ
        | pg_sys::F_FLOAT4EQ
        | pg_sys::F_FLOAT48EQ
        | pg_sys::F_FLOAT84EQ
        | pg_sys::F_NUMERIC_EQ => Comparison::Equal,
        _ => return None,
    })
}

/// What a function of numbers does.
enum Meaning {
    Negate,
    Cast(Precision),
    /// Keeps as many digits behind the point as a function of the second argument says.
    Round(fn(i32) -> i32),
    Apply(Operation, Precision),
}

fn meaning(function: pg_sys::Oid) -> Option<Meaning> {
    use Operation::{Add, Divide, Multiply, Subtract};
    use Precision::{Decimal, Double, Single};
    Some(match function.to_u32() {
        pg_sys::F_FLOAT8UM | pg_sys::F_FLOAT4UM | pg_sys::F_NUMERIC_UMINUS => Meaning::Negate,
        pg_sys::F_FLOAT8_FLOAT4
        | pg_sys::F_FLOAT8_NUMERIC
        | pg_sys::F_FLOAT8_INT2
        | pg_sys::F_FLOAT8_INT4
        | pg_sys::F_FLOAT8_INT8 => Meaning::Cast(Double),
        pg_sys::F_FLOAT4_FLOAT8
        | pg_sys::F_FLOAT4_NUMERIC
        | pg_sys::F_FLOAT4_INT2
        | pg_sys::F_FLOAT4_INT4
        | pg_sys::F_FLOAT4_INT8 => Meaning::Cast(Single),
        pg_sys::F_NUMERIC_FLOAT8
        | pg_sys::F_NUMERIC_FLOAT4
        | pg_sys::F_NUMERIC_INT2
        | pg_sys::F_NUMERIC_INT4
        | pg_sys::F_NUMERIC_INT8 => Meaning::Cast(Decimal),
        pg_sys::F_ROUND_NUMERIC_INT4 => Meaning::Round(|digits| digits),
        pg_sys::F_NUMERIC_NUMERIC_INT4 => Meaning::Round(modifier_scale),
        pg_sys::F_FLOAT8PL | pg_sys::F_FLOAT48PL | pg_sys::F_FLOAT84PL => {
            Meaning::Apply(Add, Double)
        }
        pg_sys::F_FLOAT8MI | pg_sys::F_FLOAT48MI | pg_sys::F_FLOAT84MI => {
            Meaning::Apply(Subtract, Double)
        }
        pg_sys::F_FLOAT8MUL | pg_sys::F_FLOAT48MUL | pg_sys::F_FLOAT84MUL => {
            Meaning::Apply(Multiply, Double)
        }
        pg_sys::F_FLOAT8DIV | pg_sys::F_FLOAT48DIV | pg_sys::F_FLOAT84DIV => {
            Meaning::Apply(Divide, Double)
        }
        pg_sys::F_FLOAT4PL => Meaning::Apply(Add, Single),
        pg_sys::F_FLOAT4MI => Meaning::Apply(Subtract, Single),
        pg_sys::F_FLOAT4MUL => Meaning::Apply(Multiply, Single),
        pg_sys::F_FLOAT4DIV => Meaning::Apply(Divide, Single),
        pg_sys::F_NUMERIC_ADD => Meaning::Apply(Add, Decimal),
        pg_sys::F_NUMERIC_SUB => Meaning::Apply(Subtract, Decimal),
        pg_sys::F_NUMERIC_MUL => Meaning::Apply(Multiply, Decimal),
        pg_sys::F_NUMERIC_DIV => Meaning::Apply(Divide, Decimal),
        _ => return None,
    })
}

/// An operator with its two arguments.
///
/// # Safety
/// `node` must be null or an expression of a plan.
pub unsafe fn binary<'a>(
    node: *mut pg_sys::Node,
) -> Option<(&'a pg_sys::OpExpr, *mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: an expression of a plan; its tag says what it is.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_OpExpr {
            return None;
        }
        let operator = &*node.cast::<pg_sys::OpExpr>();
        match *items(operator.args) {
            [left, right] => Some((operator, left, right)),
            _ => None,
        }
    }
}

/// The nodes of a list.
///
/// # Safety
/// `list` must be null or a list of nodes, which must not change while they are used.
pub unsafe fn items<'a>(list: *mut pg_sys::List) -> &'a [*mut pg_sys::Node] {
    // SAFETY: null is the empty list; cells of a list of nodes are pointers.
    unsafe {
        match list.as_ref() {
            Some(list) => {
                std::slice::from_raw_parts(list.elements.cast(), list.length.max(0) as usize)
            }
            None => &[],
        }
    }
}
