//! How a line of the prompt is cut into words. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What a line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    /// Nothing: it is empty or a comment.
    Nothing,
    /// The end.
    Exit,
    /// A command, as `kvctl` would get it from a shell.
    Words(Vec<OsString>),
    /// It cannot be read: why.
    Unreadable(&'static str),
}

/// Reads one line. Verbs are case-insensitive. `SET key value` takes the rest of the line as it is,
/// quotes and all, as the text door of the servers does; everything else is cut as by a shell.
pub(crate) fn read(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Line::Nothing;
    }
    let (verb, rest) = first_word(line);
    match verb.to_ascii_lowercase().as_slice() {
        b"exit" | b"quit" if rest.is_empty() => Line::Exit,
        b"set" => {
            let (key, value) = first_word(rest);
            if key.is_empty() || value.is_empty() {
                return Line::Unreadable("SET needs a key and a value: SET key value");
            }
            // After `--` a value that begins with a dash is a value, but `-` alone means stdin.
            if value == b"-" {
                return Line::Unreadable("a lone - means stdin, from which the commands come");
            }
            Line::Words(own([b"put", b"--", key, value]))
        }
        _ => match split(line) {
            Ok(mut words) => {
                if let Some(verb) = words.first_mut() {
                    verb.make_ascii_lowercase();
                }
                Line::Words(words.into_iter().map(OsString::from_vec).collect())
            }
            Err(why) => Line::Unreadable(why),
        },
    }
}

fn own<const N: usize>(words: [&[u8]; N]) -> Vec<OsString> {
    words.map(|word| OsString::from_vec(word.to_vec())).into()
}

fn first_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    (word, rest.trim_ascii_start())
}

/// Cuts at white space. Single quotes keep everything, double quotes everything but `\"` and `\\`,
/// a backslash keeps the next character.
fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(b'"'), b'\\') if matches!(bytes.peek(), Some(b'"' | b'\\')) => {
                word.get_or_insert_default().extend(bytes.next());
            }
            (Some(_), _) => word.get_or_insert_default().push(byte),
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b'\\') => match bytes.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("the line ends with a backslash"),
            },
            (None, _) if byte.is_ascii_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(byte),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        match read(line.as_bytes()) {
            Line::Words(words) => {
                words.into_iter().map(|word| word.into_string().expect("UTF-8")).collect()
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn set_takes_the_rest_of_the_line_as_it_is() {
        let line = r#"SET user:1 {"name": "Alice",  "age": 30}"#;
        let value = r#"{"name": "Alice",  "age": 30}"#;
        assert_eq!(words(line), ["put", "--", "user:1", value]);
    }

    #[test]
    fn verbs_are_case_insensitive_and_other_words_are_not() {
        assert_eq!(words("GET User"), ["get", "User"]);
        assert_eq!(words("Delete a"), ["delete", "a"]);
        assert_eq!(read(b" EXIT "), Line::Exit);
    }

    #[test]
    fn other_lines_are_cut_as_by_a_shell() {
        assert_eq!(words(r#"put k "a \"b\" c""#), ["put", "k", r#"a "b" c"#]);
        assert_eq!(words(r"put k 'a \ b'"), ["put", "k", r"a \ b"]);
        assert_eq!(words(r"put k a\ b"), ["put", "k", "a b"]);
        assert_eq!(words("put k ''"), ["put", "k", ""]);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_not_guessed() {
        for line in ["put k 'a", "put k \"a", "put k a\\", "SET", "SET k", "SET k -"] {
            assert!(matches!(read(line.as_bytes()), Line::Unreadable(_)), "{line}");
        }
        assert_eq!(read(b"  "), Line::Nothing);
        assert_eq!(read(b"# a comment"), Line::Nothing);
    }
}
