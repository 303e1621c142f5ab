//! Namespaces of a chat template that could hold themselves.
//!
//! `{% set ns.x = ns %}` makes a value without end: whoever prints, compares or drops it overflows the stack, in Jinja as in minijinja, and no limit on
//! steps helps. A namespace can get into itself only where it is used as a value. Templates use its attributes: `ns.x`. So a template that does
//! anything else with a namespace is refused.

/// A word or sign inside a tag.
#[derive(Clone, Copy, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Sign(u8),
    Text,
}

/// The first namespace that `source` uses as a value.
pub(super) fn used_as_value(source: &str) -> Option<&str> {
    let tokens = tokens(source);
    // Two signs make the neighbours of every token exist.
    let at = |i: usize, d: isize| {
        i.checked_add_signed(d).and_then(|i| tokens.get(i)).copied().unwrap_or(Token::Text)
    };
    let mut names = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if *token != Token::Word("namespace") || at(i, -1) == Token::Sign(b'.') {
            continue;
        }
        match (at(i, -3), at(i, -2), at(i, -1), at(i, 1)) {
            (Token::Word("set"), Token::Word(name), Token::Sign(b'='), Token::Sign(b'(')) => {
                names.push(name);
            }
            _ => return Some("namespace"),
        }
    }
    let is_value = |i: usize| match (at(i, -1), at(i, 1), at(i, 2)) {
        (Token::Sign(b'.'), ..) | (_, Token::Sign(b'.' | b'['), _) => false,
        (_, Token::Word("is"), _) => false,
        // Set, or the name of an argument.
        (_, Token::Sign(b'='), next) => next == Token::Sign(b'='),
        _ => true,
    };
    tokens.iter().enumerate().find_map(|(i, token)| match token {
        Token::Word(name) if names.contains(name) && is_value(i) => Some(*name),
        _ => None,
    })
}

/// The words and signs of all tags.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let (mut tokens, mut i, mut inside) = (Vec::new(), 0, false);
    while i < bytes.len() {
        let two = bytes.get(i..i + 2).unwrap_or_default();
        if !inside {
            if two == b"{#" {
                i = source[i..].find("#}").map_or(bytes.len(), |n| i + n + 2);
                continue;
            }
            inside = matches!(two, b"{%" | b"{{");
            if inside {
                tokens.push(Token::Text);
            }
            i += if inside { 2 } else { 1 };
        } else if matches!(two, b"%}" | b"}}") {
            inside = false;
            i += 2;
        } else if let quote @ (b'"' | b'\'') = bytes[i] {
            i += 1;
            while i < bytes.len() && bytes[i] != quote {
                i += if bytes[i] == b'\\' { 2 } else { 1 };
            }
            i += 1;
            tokens.push(Token::Text);
        } else if bytes[i].is_ascii_alphanumeric() || bytes[i] == b'_' || bytes[i] >= 0x80 {
            let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
            let end = bytes[i..].iter().position(|b| !word(b)).map_or(bytes.len(), |n| i + n);
            tokens.push(Token::Word(source.get(i..end).unwrap_or_default()));
            i = end;
        } else {
            if !bytes[i].is_ascii_whitespace() {
                tokens.push(Token::Sign(bytes[i]));
            }
            i += 1;
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_no_value() {
        let source = "{# ns #}{%- set ns = namespace(a=[], b = 'ns') -%}{% set ns.a = ns.a + [1] %}{% if ns['b'] is defined and ns is defined %}ns{{ x.ns ~ 'ns' }}{% endif %}";
        assert_eq!(used_as_value(source), None);
    }

    #[test]
    fn a_namespace_by_itself_is_a_value() {
        for use_ in [
            "{% set ns.a = ns %}",
            "{{ ns }}",
            "{{ [ns] }}",
            "{{ f(ns) }}",
            "{% set b = ns %}",
            "{{ ns == 1 }}",
        ] {
            let source = format!("{{% set ns = namespace() %}}{use_}");
            assert_eq!(used_as_value(&source), Some("ns"), "{use_}");
        }
    }

    #[test]
    fn namespaces_without_a_name_are_values() {
        for source in
            ["{{ [namespace()] }}", "{% set n = namespace %}", "{% set a = b or namespace() %}"]
        {
            assert_eq!(used_as_value(source), Some("namespace"), "{source}");
        }
    }
}
