//! The text of a notebook as HTML. HTML within it is shown as text, but for a few elements without attributes.

use std::path::{Component, Path};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;

use crate::html::ansi::escape_html;
use crate::notebook::join_text;

/// Where the pictures of a text are.
pub struct PictureSources<'a> {
    pub folder: Option<&'a Path>,
    /// Those that the cell itself has, by name and MIME type.
    pub attachments: Option<&'a Value>,
}

/// Elements that say how text is read, and can do nothing else.
const ALLOWED_ELEMENTS: [&str; 10] =
    ["details", "summary", "br", "sub", "sup", "kbd", "b", "i", "em", "strong"];

fn events(text: &str) -> impl Iterator<Item = Event<'_>> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    // So that nothing within a formula is taken for emphasis; it stays text.
    Parser::new_ext(text, options | Options::ENABLE_MATH)
}

pub fn html(text: &str, pictures: &PictureSources) -> String {
    let mut out = String::new();
    let mut events: Vec<Event> = events(text).map(|event| sanitize(event, pictures)).collect();
    name_headings(&mut events);
    pulldown_cmark::html::push_html(&mut out, events.into_iter());
    out
}

/// The text of the first heading.
pub fn first_heading(text: &str) -> Option<String> {
    let mut events = events(text).skip_while(|event| !matches!(event, Event::Start(Tag::Heading { .. })));
    events.next()?;
    let heading: String =
        events.take_while(|event| !is_heading_end(event)).map(|event| plain_text(&event)).collect();
    Some(heading.trim().to_string()).filter(|heading| !heading.is_empty())
}

fn is_heading_end(event: &Event) -> bool {
    matches!(event, Event::End(TagEnd::Heading(_)))
}

fn plain_text(event: &Event) -> String {
    match event {
        Event::Text(text) | Event::Code(text) => text.to_string(),
        Event::InlineMath(text) | Event::DisplayMath(text) => format!("${text}$"),
        Event::SoftBreak | Event::HardBreak => " ".to_string(),
        _ => String::new(),
    }
}

/// Headings can be linked to by their text, with `-` for spaces, as in Jupyter.
fn name_headings(events: &mut [Event]) {
    let mut rest = events;
    while let Some((event, after)) = rest.split_first_mut() {
        if let Event::Start(Tag::Heading { id, .. }) = event {
            let text = after.iter().take_while(|event| !is_heading_end(event)).map(plain_text);
            let name = text.collect::<String>().trim().replace(char::is_whitespace, "-");
            *id = Some(CowStr::from(name));
        }
        rest = after;
    }
}

fn sanitize<'a>(event: Event<'a>, pictures: &PictureSources) -> Event<'a> {
    match event {
        Event::Html(html) | Event::InlineHtml(html) => Event::InlineHtml(sanitize_html(&html).into()),
        Event::InlineMath(math) => Event::InlineHtml(escape_html(&format!("${math}$")).into()),
        Event::DisplayMath(math) => Event::InlineHtml(escape_html(&format!("$${math}$$")).into()),
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            Event::Start(Tag::Link { link_type, dest_url: safe_link(&dest_url).into(), title, id })
        }
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            Event::Start(Tag::Image { link_type, dest_url: pictures.picture(&dest_url).into(), title, id })
        }
        event => event,
    }
}

/// The HTML with all but the allowed elements as text. Comments are left out.
fn sanitize_html(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        out += &escape_html(&rest[..start]);
        rest = &rest[start..];
        if rest.starts_with("<!--") {
            rest = rest.find("-->").map_or("", |end| &rest[end + 3..]);
            continue;
        }
        let end = rest.find('>').map_or(rest.len(), |end| end + 1);
        let tag = rest[..end].trim_start_matches(['<', '/']).trim_end_matches(['>', '/', ' ']);
        if ALLOWED_ELEMENTS.contains(&tag.to_ascii_lowercase().as_str()) && rest[..end].ends_with('>') {
            out += &rest[..end];
            rest = &rest[end..];
        } else {
            out += "&lt;";
            rest = &rest[1..];
        }
    }
    out + &escape_html(rest)
}

/// A link that runs nothing. One to another notebook leads to its page.
fn safe_link(address: &str) -> String {
    match scheme(address) {
        Some(scheme) if ["http", "https", "mailto"].contains(&scheme.as_str()) => address.to_string(),
        Some(_) => "#".to_string(),
        None => {
            let (path, anchor) = address.split_once('#').unwrap_or((address, ""));
            match path.strip_suffix(".ipynb") {
                Some(name) if anchor.is_empty() => format!("{name}.html"),
                Some(name) => format!("{name}.html#{anchor}"),
                None => address.to_string(),
            }
        }
    }
}

/// As a browser reads it, which skips control characters.
fn scheme(address: &str) -> Option<String> {
    let address: String = address.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
    let end = address.find([':', '/', '?', '#'])?;
    address[end..].starts_with(':').then(|| address[..end].to_ascii_lowercase())
}

impl PictureSources<'_> {
    /// The picture as an address that holds it, where it is at hand.
    fn picture(&self, address: &str) -> String {
        let (name, of_cell) = match address.strip_prefix("attachment:") {
            Some(name) => (name, true),
            None => (address, false),
        };
        let embedded = if of_cell { self.attachment(name) } else { self.file(name) };
        embedded.unwrap_or_else(|| match scheme(address).as_deref() {
            Some("http" | "https") | None => address.to_string(),
            Some("data") if address.starts_with("data:image/") => address.to_string(),
            Some(_) => "#".to_string(),
        })
    }

    fn attachment(&self, name: &str) -> Option<String> {
        let forms = self.attachments?[name].as_object()?;
        let mut known = forms.iter().filter(|(mime, _)| PICTURE_TYPES.iter().any(|(_, known)| known == mime));
        known.find_map(|(mime, data)| base64_address(mime, &join_text(data)?))
    }

    /// A picture beside the notebook.
    fn file(&self, name: &str) -> Option<String> {
        let path = Path::new(name);
        let within = path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir | Component::ParentDir));
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        let (_, mime) = PICTURE_TYPES.iter().find(|(known, _)| *known == ending)?;
        let content = within.then(|| std::fs::read(self.folder?.join(path)).ok()).flatten()?;
        Some(data_address(mime, &content))
    }
}

/// An address that holds what it is of.
pub fn data_address(mime: &str, content: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(content))
}

/// The same of what a notebook keeps in base64; none if it is not.
pub fn base64_address(mime: &str, data: &str) -> Option<String> {
    let data: String = data.chars().filter(|c| !c.is_whitespace()).collect();
    Some(data_address(mime, &STANDARD.decode(data).ok()?))
}

const PICTURE_TYPES: [(&str, &str); 6] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("svg", "image/svg+xml"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str) -> String {
        html(text, &PictureSources { folder: None, attachments: None })
    }

    #[test]
    fn text_becomes_html() {
        for (text, page) in [
            ("a *b* `c<d`", "<p>a <em>b</em> <code>c&lt;d</code></p>\n"),
            ("$a_b + c_d$ costs $5", "<p>$a_b + c_d$ costs $5</p>\n"),
            ("$$x < y$$", "<p>$$x &lt; y$$</p>\n"),
            ("# The *end*", "<h1 id=\"The-end\">The <em>end</em></h1>\n"),
            ("# A b\nx\n## `c`", "<h1 id=\"A-b\">A b</h1>\n<p>x</p>\n<h2 id=\"c\"><code>c</code></h2>\n"),
            ("<b>x</b><br/> <B onclick=x>", "<p><b>x</b><br/> &lt;B onclick=x&gt;</p>\n"),
            ("a <!-- not seen --> b", "<p>a  b</p>\n"),
            ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
            (
                "<details>\n<summary>Solution</summary>\n\n`x`\n\n</details>",
                "<details>\n<summary>Solution</summary>\n<p><code>x</code></p>\n</details>",
            ),
            ("[a](02.ipynb)", "<p><a href=\"02.html\">a</a></p>\n"),
            ("[a](x/02.ipynb#b)", "<p><a href=\"x/02.html#b\">a</a></p>\n"),
            ("[a](https://x.org/y.ipynb)", "<p><a href=\"https://x.org/y.ipynb\">a</a></p>\n"),
            ("[a](javascript:alert)", "<p><a href=\"#\">a</a></p>\n"),
            ("[a](JAVA&#9;script:alert)", "<p><a href=\"#\">a</a></p>\n"),
            ("[a](data:text/html,x)", "<p><a href=\"#\">a</a></p>\n"),
            ("![a](javascript:alert)", "<p><img src=\"#\" alt=\"a\" /></p>\n"),
            ("![a](none.png)", "<p><img src=\"none.png\" alt=\"a\" /></p>\n"),
        ] {
            assert_eq!(render(text), page, "of {text:?}");
        }
        assert!(render("|a|b|\n|-|-|\n|1|2|").contains("<td>2</td>"));
    }

    #[test]
    fn pictures_at_hand_become_part_of_the_page() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), "hi").unwrap();
        std::fs::write(folder.path().join("a.txt"), "hi").unwrap();
        let attachments = json!({"b.png": {"image/png": "aGk="}, "c.html": {"text/html": "aGk="}});
        let pictures = PictureSources { folder: Some(folder.path()), attachments: Some(&attachments) };
        for (name, address) in [
            ("a.png", "data:image/png;base64,aGk="),
            ("attachment:b.png", "data:image/png;base64,aGk="),
            ("attachment:c.html", "#"),
            ("attachment:d.png", "#"),
            ("a.txt", "a.txt"),
            ("/etc/hostname.png", "/etc/hostname.png"),
        ] {
            assert_eq!(pictures.picture(name), address, "of {name}");
        }
    }
}
