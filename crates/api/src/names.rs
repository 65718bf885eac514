//! Names as Kubernetes and DNS allow them; each check says what is wrong in Kubernetes' words.

/// The longest DNS label (RFC 1035 §2.3.4).
pub const LABEL_MOST: usize = 63;
/// The longest name in DNS as text (RFC 1035 §2.3.4).
pub const SUBDOMAIN_MOST: usize = 253;

/// A check's answer: nothing, or what is wrong.
pub type Checked = Result<(), String>;

/// A DNS label as RFC 1123 has it: `my-name`, `123-abc`.
///
/// # Errors
/// Says what a label is.
pub fn dns_label(text: &str) -> Checked {
    at_most(text, LABEL_MOST)?;
    says(
        is_label(text),
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
         and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
         regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
    )
}

/// A DNS label as RFC 1035 has it: it starts with a letter.
///
/// # Errors
/// Says what a label is.
pub fn dns1035_label(text: &str) -> Checked {
    at_most(text, LABEL_MOST)?;
    says(
        is_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase()),
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
         an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
    )
}

/// A DNS subdomain as RFC 1123 has it: labels joined by dots.
///
/// # Errors
/// Says what a subdomain is.
pub fn dns_subdomain(text: &str) -> Checked {
    at_most(text, SUBDOMAIN_MOST)?;
    says(
        text.split('.').all(is_label),
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

/// A subdomain whose first label may be `*`.
///
/// # Errors
/// Says what it may be.
pub fn wildcard_subdomain(text: &str) -> Checked {
    let rest = text.strip_prefix("*.").unwrap_or_default();
    says(
        text.len() <= SUBDOMAIN_MOST && !rest.is_empty() && rest.split('.').all(is_label),
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
         which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
         alphanumeric character (e.g. '*.example.com', regex used for validation is \
         '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

/// A key of labels and annotations: a name, perhaps below a domain, `example.com/my-name`.
///
/// # Errors
/// Says which part is wrong.
pub fn qualified_name(text: &str) -> Checked {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if name.contains('/') {
        return Err(format!(
            "a qualified name {LOOSE} with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')"
        ));
    }
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Err("prefix part must be non-empty".to_owned());
        }
        dns_subdomain(prefix).map_err(|wrong| format!("prefix part {wrong}"))?;
    }
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    at_most(name, LABEL_MOST).map_err(|wrong| format!("name part {wrong}"))?;
    says(is_loose(name), &format!("name part {LOOSE}"))
}

const LOOSE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and \
                     end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                     '123-abc', regex used for validation is \
                     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// A label's value: empty, or letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// Says what a value is.
pub fn label_value(text: &str) -> Checked {
    at_most(text, LABEL_MOST)?;
    says(
        text.is_empty() || is_loose(text),
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
         or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
    )
}

/// The name of a port: up to 15 lower-case letters, digits and single dashes, a letter among them.
///
/// # Errors
/// Says what is wrong.
/// # Source
/// RFC 6335 §5.1.
pub fn port_name(text: &str) -> Checked {
    at_most(text, 15)?;
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    says(
        text.bytes().all(fits),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    )?;
    says(text.bytes().any(|c| c.is_ascii_lowercase()), "must contain at least one letter (a-z)")?;
    says(!text.contains("--"), "must not contain consecutive hyphens")?;
    says(!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen")
}

/// A port's number.
///
/// # Errors
/// When it is not from 1 to 65535.
pub fn port_number(number: i64) -> Checked {
    says((1..=65535).contains(&number), "must be between 1 and 65535, inclusive")
}

/// The name of an environment variable: printable ASCII without `=`.
///
/// # Errors
/// Says what is wrong.
pub fn env_name(text: &str) -> Checked {
    says(!text.is_empty(), "environment variable name must not be empty")?;
    says(
        text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'='),
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='",
    )
}

/// A key of a ConfigMap or Secret: a file's name.
///
/// # Errors
/// Says what is wrong.
pub fn config_key(text: &str) -> Checked {
    at_most(text, SUBDOMAIN_MOST)?;
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    says(
        !text.is_empty() && text.bytes().all(fits),
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
         'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
         '[-._a-zA-Z0-9]+')",
    )?;
    says(text != ".", "must not be '.'")?;
    says(text != "..", "must not be '..'")?;
    says(!text.starts_with(".."), "must not start with '..'")
}

/// A name that stands as one segment of a path, such as an RBAC role's.
///
/// # Errors
/// Says what is wrong.
pub fn path_segment(text: &str) -> Checked {
    says(text != ".", "may not be '.'")?;
    says(text != "..", "may not be '..'")?;
    says(!text.contains('/'), "may not contain '/'")?;
    says(!text.contains('%'), "may not contain '%'")
}

fn at_most(text: &str, most: usize) -> Checked {
    if text.len() > most {
        return Err(format!("must be no more than {most} characters"));
    }
    Ok(())
}

fn says(right: bool, wrong: &str) -> Checked {
    if right { Ok(()) } else { Err(wrong.to_owned()) }
}

fn is_label(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|c| fits(*c))
        && bytes.last().is_some_and(|c| fits(*c))
        && bytes.iter().all(|c| fits(*c) || *c == b'-')
}

fn is_loose(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|c| fits(*c))
        && bytes.last().is_some_and(|c| fits(*c))
        && bytes.iter().all(|c| fits(*c) || matches!(c, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Checked, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Ok(()), "{text}");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_what_dns_allows() {
        let long = "a".repeat(64);
        check(dns_label, &["a", "0", "a-b", "1a"], &["", "-a", "a-", "A", "a.b", "a_b", &long]);
        check(dns1035_label, &["a", "a1"], &["1a", "", "a-"]);
        check(dns_subdomain, &["a.b-c.d", "1.2"], &["", "a..b", ".a", "a.", "a.-b", "a_b"]);
        check(wildcard_subdomain, &["*.a.b"], &["*", "*.", "a.b", "*a.b", "*.*.b"]);
        check(port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "UPPER", "sixteen-letters-"]);
    }

    #[test]
    fn keys_and_values_of_labels() {
        check(
            qualified_name,
            &["a", "A_b.c-d", "example.com/a", "app.kubernetes.io/name"],
            &["", "/a", "a/", "a/b/c", "UP.com/a", "-a", "a b"],
        );
        check(label_value, &["", "a", "A.b_c-d", "1"], &["-", "a-", "a b", "ä"]);
        check(config_key, &["a", ".hidden", "A_B"], &["", ".", "..", "..a", "a/b"]);
        check(env_name, &["A", "a.b", "1"], &["", "a=b", "ä"]);
    }
}
