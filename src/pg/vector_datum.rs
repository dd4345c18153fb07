//! pgvector's values on disk: a varlena whose payload is the number of dimensions (16 bits), 16 unused bits, and the
//! elements, 32-bit floats for `vector` and 16-bit ones for `halfvec` (pgvector's `vector.h` and `halfvec.h`).

use crate::error::{Error, Result};
use crate::pg::element::ElementType;
use crate::pg::report::or_raise;
use half::f16;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use std::borrow::Cow;

/// Bytes before the elements, the length word included.
const HEADER: usize = 8;

/// A point in time given in microseconds since 1970, as far as PostgreSQL has it.
pub fn time_of(microseconds: i64) -> Option<TimestampWithTimeZone> {
    /// 2000-01-01, where PostgreSQL's own count begins.
    const EPOCH: i64 = 946_684_800_000_000;
    let since = microseconds.checked_sub(EPOCH)?;
    TimestampWithTimeZone::try_from(since).ok()
}

/// A detoasted value, freed on drop if it is a copy.
pub(super) struct Detoasted {
    value: *mut pg_sys::varlena,
    copied: bool,
}

impl Detoasted {
    /// # Safety
    /// `datum` must be a non-null varlena.
    pub(super) unsafe fn new(datum: pg_sys::Datum) -> Self {
        let original = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: as promised by the caller.
        let value = unsafe { pg_sys::pg_detoast_datum(original) };
        Self {
            value,
            copied: value != original,
        }
    }

    /// The value as a datum, valid as long as `self`.
    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.value)
    }

    /// The value without its length word.
    pub(super) fn payload(&self) -> &[u8] {
        self.bytes().get(pg_sys::VARHDRSZ..).unwrap_or_default()
    }

    /// The whole value, length word included.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a plain varlena tells its own length; it lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.value.cast::<u8>(), pgrx::varsize(self.value)) }
    }
}

impl Drop for Detoasted {
    fn drop(&mut self) {
        if self.copied && !std::thread::panicking() {
            // SAFETY: our own palloc'd copy.
            unsafe { pg_sys::pfree(self.value.cast()) };
        }
    }
}

/// Appends the elements of some vector to a buffer and returns how many they are: values are read only when wanted.
pub type ReadElements<'a> = dyn Fn(&mut Vec<f32>) -> usize + 'a;

/// Appends the elements of a vector to `out` and returns how many they are.
///
/// # Safety
/// `datum` must be a non-null value of the element type's pgvector type.
pub unsafe fn append_elements(
    datum: pg_sys::Datum,
    element: ElementType,
    out: &mut Vec<f32>,
) -> usize {
    // SAFETY: as promised by the caller.
    let value = unsafe { Detoasted::new(datum) };
    or_raise(decode(value.bytes(), element, out))
}

fn decode(bytes: &[u8], element: ElementType, out: &mut Vec<f32>) -> Result<usize> {
    let before = out.len();
    let payload = checked(bytes, element)?;
    match element {
        ElementType::Single => {
            out.extend(
                payload
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            );
        }
        ElementType::Half => out.extend(
            payload
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        ),
    }
    Ok(out.len() - before)
}

/// The bytes of the elements. Their number is that of the header: the type of a value was recognized by what the catalogs say,
/// and this is a second look.
fn checked(bytes: &[u8], element: ElementType) -> Result<&[u8]> {
    match bytes.split_at_checked(HEADER) {
        Some((&[_, _, _, _, low, high, _, _], payload))
            if !payload.is_empty()
                && usize::from(u16::from_ne_bytes([low, high])) * element.bytes()
                    == payload.len() =>
        {
            Ok(payload)
        }
        _ => Err(Error::Malformed(element.name())),
    }
}

/// A copy of a vector in Rust's memory, kept across calls: a plain varlena that functions of PostgreSQL can be given.
#[derive(PartialEq)]
pub struct OwnedVector {
    /// 8-byte aligned storage.
    words: Vec<u64>,
    len: usize,
    element: ElementType,
}

impl OwnedVector {
    /// # Safety
    /// `datum` must be a non-null value of the element type's pgvector type.
    pub unsafe fn copy(datum: pg_sys::Datum, element: ElementType) -> Self {
        // SAFETY: as promised by the caller.
        let value = unsafe { Detoasted::new(datum) };
        let bytes = value.bytes();
        or_raise(checked(bytes, element));
        let word = |chunk: &[u8]| {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(whole)
        };
        Self {
            words: bytes.chunks(8).map(word).collect(),
            len: bytes.len(),
            element,
        }
    }

    /// The vector of these elements; as 16-bit floats they are rounded.
    pub fn of(elements: &[f32], element: ElementType) -> Self {
        let payload: Vec<u8> = match element {
            ElementType::Single => elements.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            ElementType::Half => elements
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_ne_bytes())
                .collect(),
        };
        let len = HEADER + payload.len();
        let mut words = vec![0u64; len.div_ceil(8)];
        // SAFETY: the words hold at least `len` bytes, and any bytes are words; the length word is the server's to write.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), len);
            bytes[4..6].copy_from_slice(&(elements.len() as u16).to_ne_bytes());
            bytes[HEADER..].copy_from_slice(&payload);
            pgrx::set_varsize_4b(words.as_mut_ptr().cast(), len as i32);
        }
        Self {
            words,
            len,
            element,
        }
    }

    /// The value as a datum that stays valid as long as `self`.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words.as_ptr())
    }

    /// The elements as 32-bit floats.
    pub fn elements(&self) -> Cow<'_, [f32]> {
        let payload = (self.len - HEADER) / self.element.bytes();
        // SAFETY: `words` holds `len` initialized bytes, of which the header is 8; any bytes are numbers.
        unsafe {
            let start = self.words.as_ptr().cast::<u8>().add(HEADER);
            match self.element {
                ElementType::Single => {
                    Cow::Borrowed(std::slice::from_raw_parts(start.cast::<f32>(), payload))
                }
                ElementType::Half => {
                    let halves = std::slice::from_raw_parts(start.cast::<f16>(), payload);
                    Cow::Owned(halves.iter().map(|half| half.to_f32()).collect())
                }
            }
        }
    }
}
