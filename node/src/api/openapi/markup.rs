//! HTML of texts in a subset of Markdown: paragraphs, lists, code and bold text.

/// Escapes a text for HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Renders a text within a paragraph: code and bold text.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            html += &format!("<code>{}</code>", escape(part));
            continue;
        }
        for (index, part) in part.split("**").enumerate() {
            match index % 2 {
                1 => html += &format!("<b>{}</b>", escape(part)),
                _ => html += &escape(part),
            }
        }
    }
    html
}

/// Renders a text as paragraphs and lists.
pub(super) fn blocks(text: &str) -> String {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    blocks.map(block).collect()
}

fn block(text: &str) -> String {
    if !text.starts_with("- ") {
        return format!("<p>{}</p>\n", inline(text));
    }
    let items = text.lines().map(|line| {
        let item = line.strip_prefix("- ").unwrap_or(line);
        format!("<li>{}</li>\n", inline(item))
    });
    format!("<ul>\n{}</ul>\n", items.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(
            escape("<a href=\"x\">&"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
        assert_eq!(
            inline("`<b>` & **<i>**"),
            "<code>&lt;b&gt;</code> &amp; <b>&lt;i&gt;</b>"
        );
    }

    #[test]
    fn paragraphs_and_lists_are_rendered() {
        let html = blocks("One `two`.\n\n- **three**\n- four");
        let expected = "<p>One <code>two</code>.</p>\n\
                        <ul>\n<li><b>three</b></li>\n<li>four</li>\n</ul>\n";
        assert_eq!(html, expected);
        assert_eq!(blocks(""), "");
    }
}
