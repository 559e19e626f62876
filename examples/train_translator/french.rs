//! French words as they stand in a sentence: what each is a translation of, and how neighbours change each other.

/// A French word, with the English words that it is a translation of, by their numbers.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    pub sure: Vec<usize>,
    /// Those that have part in it.
    pub possible: Vec<usize>,
    pub role: Role,
}

/// What of a word its neighbours must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// le, la, les before a noun.
    Article,
    /// A masculine adjective before its noun, in the singular.
    BeforeNoun,
    Other,
}

impl Word {
    pub fn new(text: &str, sure: &[usize]) -> Word {
        Word { text: text.into(), sure: sure.to_vec(), possible: Vec::new(), role: Role::Other }
    }

    pub fn with_possible(self, possible: &[usize]) -> Word {
        Word { possible: possible.to_vec(), ..self }
    }

    pub fn with_role(self, role: Role) -> Word {
        Word { role, ..self }
    }
}

/// Whether what stands before it loses its vowel: all our h are silent.
fn begins_with_vowel(text: &str) -> bool {
    text.chars().next().is_some_and(|first| "aeiouhâàéèêîôûœ".contains(first))
}

/// As it is written: à le is au, le ami is l' ami, beau ami is bel ami.
pub fn written(words: Vec<Word>) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::new();
    for word in words {
        let before = joined.last().map(|last| last.text.as_str());
        let contracted = match (before, word.text.as_str(), word.role) {
            (Some("à"), "les", Role::Article) => Some("aux"),
            (Some("de"), "les", Role::Article) => Some("des"),
            // Before a vowel it is l', which is contracted with nothing: that is seen by the word to come.
            (Some("à"), "le", Role::Article) => Some("au"),
            (Some("de"), "le", Role::Article) => Some("du"),
            _ => None,
        };
        match (contracted, joined.last_mut()) {
            (Some(contracted), Some(last)) => {
                last.text = contracted.into();
                last.sure.extend(word.sure);
                last.possible.extend(word.possible);
                last.role = Role::Article;
            }
            _ => joined.push(word),
        }
    }
    // Taken apart again where a vowel follows: de l' ami.
    let mut parted: Vec<Word> = Vec::new();
    for (index, word) in joined.iter().enumerate() {
        let before_vowel = joined.get(index + 1).is_some_and(|next| begins_with_vowel(&next.text));
        let preposition = match word.text.as_str() {
            "au" => Some("à"),
            "du" => Some("de"),
            _ => None,
        };
        match preposition.filter(|_| before_vowel) {
            Some(preposition) => {
                let (first, rest) = word.sure.split_at(word.sure.len().min(1));
                parted.push(Word { text: preposition.into(), role: Role::Other, ..Word::new("", first) });
                let article = Word::new("le", if rest.is_empty() { first } else { rest });
                parted.push(article.with_possible(&word.possible).with_role(Role::Article));
            }
            None => parted.push(word.clone()),
        }
    }
    for index in (0..parted.len().saturating_sub(1)).rev() {
        if !begins_with_vowel(&parted[index + 1].text) {
            continue;
        }
        let role = parted[index].role;
        let changed = match parted[index].text.as_str() {
            "le" | "la" => "l'",
            "je" => "j'",
            "me" => "m'",
            "te" => "t'",
            "ne" => "n'",
            "que" => "qu'",
            "de" => "d'",
            "ce" => "cet",
            "ma" => "mon",
            "ta" => "ton",
            "sa" => "son",
            "beau" if role == Role::BeforeNoun => "bel",
            "nouveau" if role == Role::BeforeNoun => "nouvel",
            "vieux" if role == Role::BeforeNoun => "vieil",
            _ => continue,
        };
        parted[index].text = changed.into();
    }
    parted
}

/// A participle that agrees with what was named before it.
pub fn agreed(participle: &str, is_feminine: bool, is_plural: bool) -> String {
    let mut text = participle.to_string();
    if is_feminine {
        text.push('e');
    }
    if is_plural && !text.ends_with('s') {
        text.push('s');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[(&str, Role)]) -> String {
        let words =
            words.iter().enumerate().map(|(index, (text, role))| Word::new(text, &[index]).with_role(*role));
        written(words.collect()).into_iter().map(|word| word.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn neighbours_change_each_other() {
        use Role::{Article, BeforeNoun, Other};
        assert_eq!(said(&[("à", Other), ("le", Article), ("chat", Other)]), "au chat");
        assert_eq!(said(&[("à", Other), ("le", Article), ("ami", Other)]), "à l' ami");
        assert_eq!(said(&[("de", Other), ("les", Article), ("amis", Other)]), "des amis");
        assert_eq!(said(&[("de", Other), ("la", Article), ("école", Other)]), "de l' école");
        assert_eq!(said(&[("ce", Other), ("vieux", BeforeNoun), ("arbre", Other)]), "ce vieil arbre");
        assert_eq!(said(&[("ce", Other), ("oiseau", Other)]), "cet oiseau");
        assert_eq!(said(&[("je", Other), ("ne", Other), ("le", Other), ("ai", Other)]), "je ne l' ai");
        assert_eq!(said(&[("sa", Other), ("épée", Other)]), "son épée");
        assert_eq!(said(&[("vieux", Other), ("amis", Other)]), "vieux amis");
        assert_eq!([agreed("vu", true, false), agreed("pris", false, true)], ["vue", "pris"]);
    }
}
