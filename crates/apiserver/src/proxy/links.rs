//! Links of pages that come through a proxy: what points at the other end's root points below the
//! path by which the client came.
//!
//! Pages are read only as far as to find attributes of tags; scripts, styles and comments are left
//! alone, and so are links that a script makes.
//!
//! # Source
//! Kubernetes' `proxy.Transport`.

/// Attributes that hold a link.
const LINKS: [&str; 9] =
    ["action", "background", "cite", "data", "formaction", "href", "longdesc", "poster", "src"];

/// What a link is to become.
pub(super) struct Rewrite<'a> {
    /// The path under which the other end's root is seen.
    pub(super) prefix: &'a str,
    /// Names of the other end: its address, and the host the client asked for.
    pub(super) hosts: [&'a str; 2],
}

impl Rewrite<'_> {
    /// The link to put in its place; none when it may stay.
    pub(super) fn link(&self, link: &str) -> Option<String> {
        let path = self.path(link)?;
        let below = path.strip_prefix(self.prefix);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return (path != link).then(|| path.to_owned());
        }
        Some(format!("{}{path}", self.prefix))
    }

    /// The path of a link to the other end that starts at its root.
    fn path<'l>(&self, link: &'l str) -> Option<&'l str> {
        let lower = link.get(..8).unwrap_or(link).to_ascii_lowercase();
        let scheme = ["http://", "https://", "//"].into_iter().find(|one| lower.starts_with(one));
        let Some(scheme) = scheme else { return link.starts_with('/').then_some(link) };
        let rest = &link[scheme.len()..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if !self
            .hosts
            .iter()
            .any(|host| !host.is_empty() && host.eq_ignore_ascii_case(&rest[..end]))
        {
            return None;
        }
        Some(if end == rest.len() { "/" } else { &rest[end..] })
    }

    /// The page with its links changed.
    pub(super) fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 16);
        let (mut at, mut kept) = (0, 0);
        while let Some(open) = find(page, at, b"<") {
            at = open + 1;
            if page[at..].starts_with(b"!--") {
                at = find(page, at, b"-->").map_or(page.len(), |end| end + 3);
                continue;
            }
            if !page.get(at).is_some_and(u8::is_ascii_alphabetic) {
                continue;
            }
            let name_end = end_of(page, at, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let name = page[at..name_end].to_ascii_lowercase();
            at = name_end;
            while let Some(attribute) = attribute(page, &mut at) {
                let (from, to) = attribute.value;
                let is_link = LINKS.iter().any(|one| {
                    one.as_bytes().eq_ignore_ascii_case(&page[attribute.name.0..attribute.name.1])
                });
                let value = std::str::from_utf8(&page[from..to]).ok().filter(|_| is_link);
                if let Some(link) = value.and_then(|value| self.link(value)) {
                    out.extend_from_slice(&page[kept..from]);
                    out.extend_from_slice(link.as_bytes());
                    kept = to;
                }
            }
            if name == b"script" || name == b"style" {
                let close: &[u8] = if name == b"script" { b"</script" } else { b"</style" };
                at = find_ignoring_case(page, at, close).unwrap_or(page.len());
            }
        }
        out.extend_from_slice(&page[kept..]);
        out
    }
}

struct Attribute {
    name: (usize, usize),
    value: (usize, usize),
}

/// The next attribute of the tag that `at` is in; none at its end, which is then passed.
fn attribute(page: &[u8], at: &mut usize) -> Option<Attribute> {
    *at = end_of(page, *at, |byte| byte.is_ascii_whitespace() || byte == b'/');
    if page.get(*at).is_none_or(|byte| *byte == b'>') {
        *at = (*at + 1).min(page.len());
        return None;
    }
    let start = *at;
    // A stray `=` begins a name, or nothing would be passed.
    let is_name = |byte: u8| !byte.is_ascii_whitespace() && !matches!(byte, b'=' | b'>' | b'/');
    *at = end_of(page, start + 1, is_name);
    let name = (start, *at);
    let equals = end_of(page, *at, |byte| byte.is_ascii_whitespace());
    if page.get(equals) != Some(&b'=') {
        return Some(Attribute { name, value: (*at, *at) });
    }
    let from = end_of(page, equals + 1, |byte| byte.is_ascii_whitespace());
    let value = match page.get(from) {
        Some(quote @ (b'"' | b'\'')) => {
            let end = find(page, from + 1, &[*quote]).unwrap_or(page.len());
            *at = (end + 1).min(page.len());
            (from + 1, end)
        }
        _ => {
            *at = end_of(page, from, |byte| !byte.is_ascii_whitespace() && byte != b'>');
            (from, *at)
        }
    };
    Some(Attribute { name, value })
}

fn end_of(page: &[u8], from: usize, fits: impl Fn(u8) -> bool) -> usize {
    let from = from.min(page.len());
    page[from..].iter().position(|byte| !fits(*byte)).map_or(page.len(), |found| from + found)
}

fn find(page: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = page.get(from..)?;
    memchr::memmem::find(rest, what).map(|found| from + found)
}

fn find_ignoring_case(page: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = page.get(from..)?;
    let found = rest.windows(what.len()).position(|own| own.eq_ignore_ascii_case(what));
    found.map(|found| from + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/b/proxy";

    fn rewrite() -> Rewrite<'static> {
        Rewrite { prefix: PREFIX, hosts: ["10.0.0.1:80", "box:6443"] }
    }

    #[test]
    fn links_to_the_root_stay_below_the_proxy() {
        let below = |path: &str| Some(format!("{PREFIX}{path}"));
        let check = |link: &str, expected: Option<String>| {
            assert_eq!(rewrite().link(link), expected, "{link}");
        };
        check("/", below("/"));
        check("/a/b?c=d#e", below("/a/b?c=d#e"));
        check("http://10.0.0.1:80/x", below("/x"));
        check("HTTPS://BOX:6443/x", below("/x"));
        check("//box:6443", below("/"));
        check("http://elsewhere/x", None);
        check("//elsewhere/x", None);
        check("relative/x", None);
        check("#top", None);
        check("mailto:x@y", None);
        check("", None);
        check("/api/v1/namespaces/a/pods/b/proxy/x", None);
        check("https://box:6443/api/v1/namespaces/a/pods/b/proxy/x", below("/x"));
        check("/api/v1/namespaces/a/pods/b/proxyx", below("/api/v1/namespaces/a/pods/b/proxyx"));
    }

    #[test]
    fn pages_change_in_their_links_alone() {
        let check = |page: &str, expected: &str| {
            let expected = expected.replace("PREFIX", PREFIX);
            let found = rewrite().page(page.as_bytes());
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{page}");
        };
        check("<a href=\"/x\">/x</a>", "<a href=\"PREFIX/x\">/x</a>");
        check("<A HREF = '/x' title='/y'>", "<A HREF = 'PREFIX/x' title='/y'>");
        check("<img src=/x.png><b>", "<img src=PREFIX/x.png><b>");
        check("<img alt src=/x />", "<img alt src=PREFIX/x />");
        check(
            "<script src=\"/s.js\">a<b; '<a href=\"/n\">'</script><a href=/y>",
            "<script src=\"PREFIX/s.js\">a<b; '<a href=\"/n\">'</script><a href=PREFIX/y>",
        );
        check("<!-- <a href=\"/x\"> --><a href=\"y\">", "<!-- <a href=\"/x\"> --><a href=\"y\">");
        check("1 < 2 <a href=\"/\">", "1 < 2 <a href=\"PREFIX/\">");
        check("<form action=\"/go\" method=post>", "<form action=\"PREFIX/go\" method=post>");
    }

    #[test]
    fn broken_pages_come_through() {
        for page in [
            "<",
            "<a",
            "<a href",
            "<a href=",
            "<a href=\"/x",
            "<a =\"/x\">",
            "<!--",
            "<a ==",
            "<script>",
            "</",
            "<a href='/x\">",
        ] {
            let found = rewrite().page(page.as_bytes());
            assert!(found.len() >= page.len(), "{page}");
        }
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        assert!(rewrite().page(&bytes).len() >= bytes.len());
    }
}
