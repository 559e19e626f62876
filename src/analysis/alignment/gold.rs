//! Alignments that are known: which words of a source and a target belong together.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::files::read_text;

/// The links between the words of a source and of its target, counted from 0: sure ones, and possible ones (Och and Ney 2003, "A Systematic
/// Comparison of Various Statistical Alignment Models", section 6). What is sure is possible.
///
/// ```
/// use headlight::analysis::WordAlignment;
/// let links: WordAlignment = "0-0 1-2 2?1".parse()?;
/// assert!(links.is_sure(1, 2) && links.is_possible(2, 1) && !links.is_sure(2, 1));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordAlignment {
    sure: BTreeSet<(usize, usize)>,
    possible: BTreeSet<(usize, usize)>,
}

impl WordAlignment {
    /// Of sure and possible links, each a word of the source and one of the target.
    pub fn new(
        sure: impl IntoIterator<Item = (usize, usize)>,
        possible: impl IntoIterator<Item = (usize, usize)>,
    ) -> WordAlignment {
        let sure: BTreeSet<(usize, usize)> = sure.into_iter().collect();
        let possible = possible.into_iter().chain(sure.iter().copied()).collect();
        WordAlignment { sure, possible }
    }

    /// Those of a file, a sentence a line: `0-0 1-2` are sure, `1p2` or `1?2` possible, with the word of the source first. They are
    /// counted from 0, or from 1 where `from_one` says so.
    pub fn lines(path: impl AsRef<Path>, from_one: bool) -> Result<Vec<WordAlignment>> {
        let path = path.as_ref();
        let text = read_text(path, "give a file with the links of a sentence on each line: `0-0 1-2 2?1`")?;
        let of_line = |(index, line): (usize, &str)| {
            parse(line, from_one)
                .map_err(|error| error.at(&format!("{}, line {}", path.display(), index + 1)))
        };
        text.lines().enumerate().map(of_line).collect()
    }

    /// The sure links.
    pub fn sure(&self) -> &BTreeSet<(usize, usize)> {
        &self.sure
    }

    /// All that are possible, the sure ones among them.
    pub fn possible(&self) -> &BTreeSet<(usize, usize)> {
        &self.possible
    }

    /// Whether a link is sure.
    pub fn is_sure(&self, source: usize, target: usize) -> bool {
        self.sure.contains(&(source, target))
    }

    /// Whether a link is possible.
    pub fn is_possible(&self, source: usize, target: usize) -> bool {
        self.possible.contains(&(source, target))
    }

    /// Fails where a link is of a word that a sentence has not.
    pub(crate) fn check(&self, sources: usize, targets: usize) -> Result<()> {
        match self.possible.iter().find(|(source, target)| *source >= sources || *target >= targets) {
            None => Ok(()),
            Some((source, target)) => {
                let what = format!(
                    "the link {source}-{target} is of words that are not there: the source has {sources}, the target {targets}"
                );
                Err(Error::new(ErrorKind::Input, what).help(
                    "words are what spaces part in the text, counted from 0; --gold-from-1 and `from_one` are for links that count from 1",
                ))
            }
        }
    }
}

const HELP: &str =
    "write sure links as 0-0 and possible ones as 1?2 or 1p2, the word of the source first, spaces between";

fn parse(line: &str, from_one: bool) -> Result<WordAlignment> {
    let (mut sure, mut possible) = (Vec::new(), Vec::new());
    for link in line.split_whitespace() {
        let refused =
            |why: &str| Error::new(ErrorKind::Input, format!("`{link}` is no link{why}")).help(HELP);
        let at = link.find(['-', '?', 'p']).ok_or_else(|| refused(""))?;
        let number = |text: &str| -> Result<usize> {
            let number: usize = text.parse().map_err(|_| refused(""))?;
            number.checked_sub(usize::from(from_one)).ok_or_else(|| refused(", where words count from 1"))
        };
        let both = (number(&link[..at])?, number(&link[at + 1..])?);
        if link.as_bytes()[at] == b'-' { sure.push(both) } else { possible.push(both) }
    }
    Ok(WordAlignment::new(sure, possible))
}

impl std::str::FromStr for WordAlignment {
    type Err = Error;

    /// Reads `0-0 1-2 2?1`, counted from 0.
    fn from_str(line: &str) -> Result<WordAlignment> {
        parse(line, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        let links: WordAlignment = " 0-0  1p2 3?1 ".parse().expect("links");
        assert_eq!(links, WordAlignment::new([(0, 0)], [(1, 2), (3, 1)]));
        assert_eq!(parse("1-1 2?3", true).expect("links"), WordAlignment::new([(0, 0)], [(1, 2)]));
        assert_eq!("".parse::<WordAlignment>().expect("none"), WordAlignment::default());
        for wrong in ["0", "a-1", "0-", "0--1", "1_2", "-1-2", "99999999999999999999-0"] {
            let error = wrong.parse::<WordAlignment>().unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("help"), "{error}");
        }
        assert!(parse("0-1", true).unwrap_err().to_string().contains("from 1"));
        let error = links.check(3, 3).unwrap_err().to_string();
        assert!(error.contains("3-1") && error.contains("has 3"), "{error}");
        assert!(links.check(4, 3).is_ok());
    }
}
