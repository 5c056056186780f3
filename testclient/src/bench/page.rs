//! A part of a Markdown page that a program writes, between two marks. Pure.

use anyhow::{Result, bail};

/// Puts `block` between the lines `<!-- name:begin -->` and `<!-- name:end -->` of a page, in place
/// of what is there.
///
/// # Errors
/// When the marks are missing, doubled or the wrong way round; then the page stays as it is.
pub fn replace_block(page: &str, name: &str, block: &str) -> Result<String> {
    let begin = format!("<!-- {name}:begin -->\n");
    let end = format!("<!-- {name}:end -->\n");
    let once = |mark: &str| page.matches(mark).count() == 1;
    if let (true, true, Some((before, rest))) = (once(&begin), once(&end), page.split_once(&begin))
        && let Some((_, after)) = rest.split_once(&end)
    {
        return Ok(format!("{before}{begin}{}\n{end}{after}", block.trim_end()));
    }
    bail!(
        "the page needs one line `{}` and after it one line `{}`",
        begin.trim_end(),
        end.trim_end()
    )
}

/// A Markdown table; all columns but the first are numbers.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.to_vec());
    text.push_str("|---|");
    text.push_str(&"---:|".repeat(header.len().saturating_sub(1)));
    text.push('\n');
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nrest\n";

    #[test]
    fn only_what_stands_between_the_marks_changes() {
        let page = replace_block(PAGE, "bench", "new\nlines\n").expect("both marks");
        let wanted = "# Title\n<!-- bench:begin -->\nnew\nlines\n<!-- bench:end -->\nrest\n";
        assert_eq!(page, wanted);
        assert_eq!(replace_block(&page, "bench", "new\nlines").expect("both marks"), page);
    }

    #[test]
    fn a_page_without_its_marks_is_refused() {
        for wrong in [
            "# Title\n",
            "<!-- bench:begin -->\n",
            "<!-- bench:end -->\n<!-- bench:begin -->\n",
            &PAGE.repeat(2),
        ] {
            let error = replace_block(wrong, "bench", "new").expect_err(wrong);
            assert!(error.to_string().contains("`<!-- bench:begin -->`"), "{error}");
        }
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [vec!["put".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["calls", "n"], &rows), "| calls | n |\n|---|---:|\n| put | 1 |\n");
    }
}
