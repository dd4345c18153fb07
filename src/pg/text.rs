//! Text between the server, which has it in the database's encoding, and Rust, which has UTF-8.
//!
//! In a UTF-8 database both are the same bytes. In any other database each byte above 127 is the character of that number:
//! nothing is converted, so that every name of the server's, valid in its encoding or not, comes back as the same bytes in
//! statements and messages. That is enough, because every encoding of a server has ASCII characters as ASCII bytes and nowhere
//! else, and nothing here looks at other characters. The extension's own texts are ASCII.

use pgrx::datum::DatumWithOid;
use pgrx::{FromDatum, pg_sys};
use std::ffi::{CStr, CString};

fn is_utf8() -> bool {
    // SAFETY: a look at the session's state.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// The server's text as Rust has it. In a UTF-8 database, what is not UTF-8 (names of roles that were created in another one)
/// is shown with replacement characters.
pub fn from_server(bytes: &[u8]) -> String {
    if is_utf8() {
        String::from_utf8_lossy(bytes).into_owned()
    } else {
        bytes.iter().copied().map(char::from).collect()
    }
}

/// As [`from_server`], of a C string.
pub fn from_c(text: &CStr) -> String {
    from_server(text.to_bytes())
}

/// The text as the server has it. A character that did not come from there may be lost in a database of another encoding.
pub fn to_server(text: &str) -> Vec<u8> {
    if is_utf8() {
        text.as_bytes().to_vec()
    } else {
        let byte = |character: char| u8::try_from(u32::from(character)).unwrap_or(b'?');
        text.chars().map(byte).collect()
    }
}

/// As [`to_server`], as a C string, which ends before the first zero byte.
pub fn to_c(text: &str) -> CString {
    let mut bytes = to_server(text);
    bytes.retain(|&byte| byte != 0);
    CString::new(bytes).unwrap_or_default()
}

/// The text as a parameter of a statement.
pub fn argument(text: &str) -> DatumWithOid<'static> {
    // SAFETY: a text is a varlena of its bytes, as a bytea is.
    unsafe { DatumWithOid::new(to_server(text), pg_sys::TEXTOID) }
}

/// The text of a datum.
///
/// # Safety
/// `datum` must be a non-null value of the type text.
pub unsafe fn of_datum(datum: pg_sys::Datum) -> String {
    // SAFETY: a text is a varlena of its bytes, as a bytea is.
    let bytes = unsafe { <&[u8]>::from_datum(datum, false) };
    from_server(bytes.unwrap_or_default())
}

/// A message as `ereport` must get it from pgrx, which passes the bytes of a string on.
pub fn message(text: &str) -> String {
    if is_utf8() {
        return text.to_owned();
    }
    // SAFETY: not read as text anywhere: pgrx copies the bytes to the server, whose encoding they have.
    unsafe { String::from_utf8_unchecked(to_server(text)) }
}
