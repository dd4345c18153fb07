//! The filter columns of an index, its columns after the first: the keys of their values, and of conditions on them.
//!
//! The type of a column's operator class decides how its keys are made, see [`FilterType`]. Conditions whose keys admit rows for
//! which they do not hold are checked again by the executor.

use crate::error::{Error, Result};
use crate::pg::compat;
use crate::pg::element::{ElementType, base_type, type_name};
use crate::pg::relation::Index;
use crate::pg::vector_datum::Detoasted;
use distillvq_ivf::distance_range::Comparison;
use distillvq_ivf::filter::{FilterFormat, MAX_FILTERS};
use distillvq_ivf::filter_key::{
    ColumnTest, KeyKind, KeyPosition, LabelComparison, double_key, integer_position, label_key,
    largest_key, prefix_key, single_key, single_position,
};
use pgrx::pg_sys;

/// What values of a filter column are, as far as their keys depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterType {
    /// `bool`.
    Bool,
    /// `"char"`, which PostgreSQL compares without a sign.
    Char,
    /// Signed integers of so many bytes, and the types that are such integers: date, time, timestamps.
    Integer(u8),
    /// `oid`.
    Oid,
    /// `real`.
    Single,
    /// `double precision`.
    Double,
    /// `uuid`: its first eight bytes.
    Uuid,
    /// `bytea`: its first eight bytes.
    Bytea,
    /// `numeric`: the nearest 64-bit float.
    Numeric,
    /// An enum: the number of its label, which says nothing of the order.
    Enum,
    /// A type with a hash function of PostgreSQL's.
    Hashed(pg_sys::Oid),
    /// An array of labels: bits of the hashes of its elements.
    Labels,
}

impl FilterType {
    /// The one for the input type of an operator class, `None` for types that are no filter columns.
    pub fn of_class(input: pg_sys::Oid) -> Option<Self> {
        Some(match input {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::CHAROID => Self::Char,
            pg_sys::INT2OID => Self::Integer(2),
            pg_sys::INT4OID | pg_sys::DATEOID => Self::Integer(4),
            pg_sys::INT8OID | pg_sys::TIMEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => {
                Self::Integer(8)
            }
            pg_sys::OIDOID => Self::Oid,
            pg_sys::FLOAT4OID => Self::Single,
            pg_sys::FLOAT8OID => Self::Double,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::BYTEAOID => Self::Bytea,
            pg_sys::NUMERICOID => Self::Numeric,
            pg_sys::ANYENUMOID => Self::Enum,
            pg_sys::TEXTOID | pg_sys::BPCHAROID | pg_sys::INETOID => Self::Hashed(input),
            pg_sys::ANYARRAYOID => Self::Labels,
            _ => return None,
        })
    }

    /// Bytes of a key.
    fn width(self) -> u8 {
        match self {
            Self::Bool | Self::Char => 1,
            Self::Integer(bytes) => bytes,
            Self::Oid | Self::Single | Self::Enum | Self::Hashed(_) => 4,
            Self::Double | Self::Uuid | Self::Bytea | Self::Numeric | Self::Labels => 8,
        }
    }

    fn key_kind(self) -> KeyKind {
        match self {
            Self::Bool
            | Self::Char
            | Self::Integer(_)
            | Self::Oid
            | Self::Single
            | Self::Double => KeyKind::Exact,
            Self::Uuid | Self::Bytea | Self::Numeric => KeyKind::Ordered,
            Self::Enum | Self::Hashed(_) | Self::Labels => KeyKind::Hash,
        }
    }

    /// Whether rows may pass a test of keys for which the comparison does not hold.
    fn needs_recheck(self, comparison: Comparison) -> bool {
        match self {
            Self::Enum => comparison != Comparison::Equal,
            other => other.key_kind() != KeyKind::Exact,
        }
    }
}

/// A filter column.
#[derive(Clone, Copy)]
struct FilterColumn {
    of_type: FilterType,
    /// The input type of its operator class.
    input: pg_sys::Oid,
    collation: pg_sys::Oid,
    /// The hash function of values or labels, null for other types. It belongs to the server's cache of types, which keeps it.
    hash: *mut pg_sys::FmgrInfo,
}

/// The filter columns of an index.
#[derive(Clone, Default)]
pub struct FilterColumns {
    columns: Vec<FilterColumn>,
    format: FilterFormat,
}

/// Conditions on filter columns.
#[derive(Default)]
pub struct Conditions {
    /// Filter columns by their numbers, and the keys that are admitted.
    pub tests: Vec<(usize, ColumnTest)>,
    /// Whether rows that pass may not fulfil the conditions.
    pub recheck: bool,
}

impl FilterColumns {
    /// Those of an index, all of whose columns are checked: first the vector, then what can be filtered by.
    pub fn of(index: Index) -> Result<Self> {
        let data = index.data();
        // SAFETY: an open index has its catalog row and columns, and operator classes and collations for its key columns.
        let (inputs, collations) = unsafe {
            let count = (*data.rd_index).indnkeyatts.max(1) as usize;
            (
                std::slice::from_raw_parts(data.rd_opcintype, count),
                std::slice::from_raw_parts(data.rd_indcollation, count),
            )
        };
        let (first, others) = inputs
            .split_first()
            .ok_or_else(|| Error::NoMetric(index.name()))?;
        if ElementType::of_type(*first).is_none() {
            return Err(Error::FirstColumn {
                index: index.name(),
                type_name: type_name(*first),
            });
        }
        if others.len() > MAX_FILTERS {
            return Err(Error::ManyFilters {
                index: index.name(),
                columns: others.len(),
                most: MAX_FILTERS,
            });
        }
        let collations = collations.iter().skip(1);
        let columns = (1..).zip(others).zip(collations);
        let columns = columns.map(|((number, &input), &collation)| {
            let of_type = FilterType::of_class(input).ok_or_else(|| filter_error(index, input))?;
            Ok(FilterColumn {
                of_type,
                input,
                collation,
                hash: match of_type {
                    FilterType::Hashed(input) => hash_function(input),
                    FilterType::Labels => label_hash_function(index, number)?,
                    _ => std::ptr::null_mut(),
                },
            })
        });
        let columns: Vec<FilterColumn> = columns.collect::<Result<_>>()?;
        let widths: Vec<u8> = columns
            .iter()
            .map(|column| column.of_type.width())
            .collect();
        Ok(Self {
            format: FilterFormat::new(&widths).unwrap_or_default(),
            columns,
        })
    }

    /// What is kept of them.
    pub fn format(&self) -> FilterFormat {
        self.format
    }

    /// Appends the values of a row as the index keeps them.
    ///
    /// # Safety
    /// The arrays must have a value of its type, or NULL, for each filter column.
    unsafe fn append(&self, values: &[pg_sys::Datum], nulls: &[bool], out: &mut Vec<u8>) {
        let mut keys = [None; MAX_FILTERS];
        for (i, column) in self.columns.iter().enumerate() {
            if !nulls[i] {
                // SAFETY: as promised.
                keys[i] = unsafe { column.position(values[i], column.input) }.map(|it| it.key);
            }
        }
        self.format.encode(&keys[..self.columns.len()], out);
    }

    /// The conditions of the keys of a scan.
    ///
    /// # Safety
    /// The keys must be those of a scan of the index, with their arguments.
    pub unsafe fn conditions(
        &self,
        index: Index,
        keys: &[pg_sys::ScanKeyData],
    ) -> Result<Conditions> {
        let mut all = Conditions::default();
        for key in keys {
            let flags = key.sk_flags as u32;
            let Some(number) = usize::try_from(key.sk_attno - 2).ok() else {
                // The vector column. Rows without a vector are not in the index.
                if flags & pg_sys::SK_SEARCHNOTNULL != 0 {
                    continue;
                }
                return Err(Error::NullVectors(index.name()));
            };
            let column = self.columns.get(number).ok_or(Error::NoOrder)?;
            // SAFETY: as promised.
            let (test, recheck) = unsafe { column.test(key)? };
            all.tests.push((number, test));
            all.recheck |= recheck;
        }
        Ok(all)
    }
}

/// The error for a column after the first that is no filter column.
fn filter_error(index: Index, input: pg_sys::Oid) -> Error {
    let index = index.name();
    match ElementType::of_type(input) {
        Some(_) => Error::SecondVector(index),
        None => Error::FilterType {
            index,
            type_name: type_name(input),
        },
    }
}

/// PostgreSQL's hash function of a type, null if the type has none.
fn hash_function(of_type: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
    // SAFETY: a look-up of a type; entries of the cache are never freed.
    unsafe {
        let flags = pg_sys::TYPECACHE_HASH_PROC_FINFO as i32;
        let function = &raw mut (*pg_sys::lookup_type_cache(of_type, flags)).hash_proc_finfo;
        if (*function).fn_oid == pg_sys::InvalidOid {
            std::ptr::null_mut()
        } else {
            function
        }
    }
}

/// The hash function of the elements of a column of arrays, by the number of the column from 0.
fn label_hash_function(index: Index, number: usize) -> Result<*mut pg_sys::FmgrInfo> {
    // SAFETY: the open index has such a column.
    let of_type = unsafe { (*compat::attribute(index.data().rd_att, number)).atttypid };
    // SAFETY: a catalog look-up.
    let function = hash_function(unsafe { pg_sys::get_base_element_type(of_type) });
    if function.is_null() {
        return Err(Error::FilterType {
            index: index.name(),
            type_name: type_name(of_type),
        });
    }
    Ok(function)
}

/// The comparison of a strategy number, as those of btree.
pub fn comparison_of(strategy: u16) -> Option<Comparison> {
    Some(match strategy {
        1 => Comparison::Less,
        2 => Comparison::LessOrEqual,
        3 => Comparison::Equal,
        4 => Comparison::GreaterOrEqual,
        5 => Comparison::Greater,
        _ => return None,
    })
}

/// The comparison of labels of a strategy number, which follow those of btree.
pub fn label_comparison_of(strategy: u16) -> Option<LabelComparison> {
    Some(match strategy {
        6 => LabelComparison::Overlaps,
        7 => LabelComparison::Contains,
        8 => LabelComparison::ContainedBy,
        _ => return None,
    })
}

impl FilterColumn {
    /// The test of a scan key, and whether it must be checked again.
    ///
    /// # Safety
    /// The key must be one of this column, with its argument.
    unsafe fn test(&self, key: &pg_sys::ScanKeyData) -> Result<(ColumnTest, bool)> {
        let flags = key.sk_flags as u32;
        if flags & pg_sys::SK_SEARCHNULL != 0 {
            return Ok((ColumnTest::Null, false));
        }
        if flags & pg_sys::SK_SEARCHNOTNULL != 0 {
            return Ok((ColumnTest::NotNull, false));
        }
        // No comparison with NULL holds.
        if flags & pg_sys::SK_ISNULL != 0 {
            return Ok((ColumnTest::Nothing, false));
        }
        if let Some(comparison) = label_comparison_of(key.sk_strategy) {
            // Only arrays of a domain over arrays can be compared by ANY.
            if flags & pg_sys::SK_SEARCHARRAY != 0 {
                return Ok((ColumnTest::NotNull, true));
            }
            // SAFETY: as promised; the argument of these operators is an array.
            let labels = unsafe { self.label_keys(key.sk_argument) };
            return Ok((ColumnTest::labels(comparison, labels), true));
        }
        let comparison = comparison_of(key.sk_strategy).ok_or(Error::NoOrder)?;
        let of_type = match key.sk_subtype {
            pg_sys::InvalidOid => self.input,
            subtype => base_type(subtype, -1).0,
        };
        // SAFETY: as promised.
        let positions: Option<Vec<KeyPosition>> = unsafe {
            if flags & pg_sys::SK_SEARCHARRAY != 0 {
                let elements = array_elements(key.sk_argument);
                let positions = elements.into_iter().map(|it| self.position(it, of_type));
                positions.collect()
            } else {
                self.position(key.sk_argument, of_type).map(|it| vec![it])
            }
        };
        let Some(positions) = positions else {
            return Ok((ColumnTest::NotNull, true));
        };
        let kind = self.of_type.key_kind();
        let largest = largest_key(self.of_type.width().into());
        let test = ColumnTest::any(kind, comparison, &positions, largest);
        Ok((test, self.of_type.needs_recheck(comparison)))
    }

    /// The position of a value of a type among the keys of the column; `None` for a type that it is not compared with.
    ///
    /// # Safety
    /// The value must be of this type and not NULL.
    unsafe fn position(&self, value: pg_sys::Datum, of_type: pg_sys::Oid) -> Option<KeyPosition> {
        let key = match self.of_type {
            FilterType::Bool => u64::from(value.value() as u8 != 0),
            FilterType::Char => u64::from(value.value() as u8),
            FilterType::Oid | FilterType::Enum => u64::from(value.value() as u32),
            FilterType::Integer(bytes) => {
                return Some(integer_position(integer(value, of_type)?, bytes.into()));
            }
            FilterType::Single => match float(value, of_type)? {
                Float::Single(value) => single_key(value),
                Float::Double(value) => return Some(single_position(value)),
            },
            FilterType::Double => match float(value, of_type)? {
                Float::Single(value) => double_key(value.into()),
                Float::Double(value) => double_key(value),
            },
            // SAFETY: a uuid is a pointer to 16 bytes.
            FilterType::Uuid => unsafe {
                prefix_key(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16))
            },
            FilterType::Bytea => {
                // SAFETY: as promised, a varlena.
                let value = unsafe { Detoasted::new(value) };
                prefix_key(value.payload())
            }
            FilterType::Numeric => {
                // SAFETY: as promised, a numeric; out of range it is infinite.
                let value = unsafe {
                    let arguments = [Some(value)];
                    pgrx::direct_function_call::<f64>(
                        pg_sys::numeric_float8_no_overflow,
                        &arguments,
                    )
                };
                double_key(value?)
            }
            // SAFETY: as promised, a value of the type that is hashed.
            FilterType::Hashed(_) => unsafe { self.hash(value) }.into(),
            FilterType::Labels => {
                // SAFETY: as promised, an array.
                let labels = unsafe { self.label_keys(value) };
                labels.iter().fold(0, |all, label| all | label)
            }
        };
        Some(KeyPosition::of(key))
    }

    /// The keys of the labels in an array.
    ///
    /// # Safety
    /// The column must be one of labels, and the value an array of them.
    unsafe fn label_keys(&self, array: pg_sys::Datum) -> Vec<u64> {
        // SAFETY: as promised.
        unsafe {
            let labels = array_elements(array);
            let keys = labels.into_iter().map(|label| label_key(self.hash(label)));
            keys.collect()
        }
    }

    /// The hash of a value.
    ///
    /// # Safety
    /// The column must have a hash function, and the value must be of its type.
    unsafe fn hash(&self, value: pg_sys::Datum) -> u32 {
        // SAFETY: as promised.
        let hash = unsafe { pg_sys::FunctionCall1Coll(self.hash, self.collation, value) };
        hash.value() as u32
    }
}

/// An integer, or a date or time that is kept as one.
fn integer(value: pg_sys::Datum, of_type: pg_sys::Oid) -> Option<i64> {
    Some(match of_type {
        pg_sys::INT2OID => (value.value() as i16).into(),
        pg_sys::INT4OID | pg_sys::DATEOID => (value.value() as i32).into(),
        pg_sys::INT8OID | pg_sys::TIMEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => {
            value.value() as i64
        }
        _ => return None,
    })
}

/// A float of either type.
enum Float {
    Single(f32),
    Double(f64),
}

fn float(value: pg_sys::Datum, of_type: pg_sys::Oid) -> Option<Float> {
    Some(match of_type {
        pg_sys::FLOAT4OID => Float::Single(f32::from_bits(value.value() as u32)),
        pg_sys::FLOAT8OID => Float::Double(f64::from_bits(value.value() as u64)),
        _ => return None,
    })
}

/// The elements of an array that are not NULL. They lie in the current memory context.
///
/// # Safety
/// The value must be an array.
unsafe fn array_elements(array: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    let (mut length, mut by_value, mut alignment) = (0, false, 0);
    // SAFETY: as promised; the arrays that are returned have `count` entries.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let element = (*array).elemtype;
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut alignment);
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            alignment,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        let is_there = |i: &usize| !*nulls.add(*i);
        let all = (0..count.max(0) as usize).filter(is_there);
        all.map(|i| *elements.add(i)).collect()
    }
}

/// The values of an index's columns of one row of its table, alive for as long as the view.
#[derive(Clone, Copy)]
pub struct RowValues<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> RowValues<'a> {
    /// A view of the first `columns` columns.
    ///
    /// # Safety
    /// The arrays must have as many values of the types of the index's columns, or NULL, and be valid for as long as the view is
    /// used. It must be asked with the element type and filter columns of that index alone.
    pub unsafe fn new(values: *mut pg_sys::Datum, nulls: *mut bool, columns: usize) -> Self {
        // SAFETY: as promised.
        unsafe {
            Self {
                values: std::slice::from_raw_parts(values, columns),
                nulls: std::slice::from_raw_parts(nulls, columns),
            }
        }
    }

    /// Whether it has no vector: then it is not in the index.
    pub fn lacks_vector(self) -> bool {
        self.nulls[0]
    }

    /// The vector.
    pub(in crate::pg) fn vector(self) -> pg_sys::Datum {
        self.values[0]
    }

    /// Appends the elements of the vector to `out` and returns how many they are.
    pub fn append_elements(self, element: ElementType, out: &mut Vec<f32>) -> usize {
        // SAFETY: promised when it was made.
        unsafe { crate::pg::vector_datum::append_elements(self.values[0], element, out) }
    }

    /// Appends the values of the filter columns as the index keeps them.
    pub fn append_filters(self, columns: &FilterColumns, out: &mut Vec<u8>) {
        // SAFETY: promised when it was made.
        unsafe { columns.append(&self.values[1..], &self.nulls[1..], out) }
    }
}

impl FilterColumns {
    /// Columns of the index: the vector, and these.
    pub fn index_columns(&self) -> usize {
        1 + self.columns.len()
    }
}
