//! What a person sees: results on stdout, errors on stderr.

use std::io::Write as _;

/// A line on stdout. A closed pipe is not an error of ours.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", text.as_ref());
}

/// Bytes on stdout as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// A line on stderr.
pub(crate) fn error(text: impl AsRef<str>) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", text.as_ref());
}

/// Columns left-aligned and separated by two spaces, trailing blanks trimmed.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    table_with_gap(rows, 2)
}

/// The same with another distance between columns.
pub(crate) fn table_with_gap(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width + gap - cell.chars().count()));
            }
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [["Node", "Status"], ["a-long-name", "alive"]]
            .map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows), "Node         Status\na-long-name  alive");
    }
}
