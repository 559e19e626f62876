//! A grammar of English sentences with their French and the alignment of their words.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::french::{Role, Word, agreed, written};
use crate::lexicon::{Adjective, Gender, Lexicon, Noun, OCCUPATIONS, Sort, Verb, share_of_women};

/// What a sentence is made to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Construction {
    Statement,
    Negation,
    Question,
    ObjectPronoun,
    Giving,
    Copula,
    Genitive,
    Relative,
    Antecedent,
    Settled,
    Unsettled,
}

impl Construction {
    pub const ALL: [Construction; 11] = [
        Construction::Statement,
        Construction::Negation,
        Construction::Question,
        Construction::ObjectPronoun,
        Construction::Giving,
        Construction::Copula,
        Construction::Genitive,
        Construction::Relative,
        Construction::Antecedent,
        Construction::Settled,
        Construction::Unsettled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Construction::Statement => "statement",
            Construction::Negation => "negation",
            Construction::Question => "question",
            Construction::ObjectPronoun => "object pronoun",
            Construction::Giving => "giving",
            Construction::Copula => "copula",
            Construction::Genitive => "genitive",
            Construction::Relative => "relative",
            Construction::Antecedent => "it with its antecedent",
            Construction::Settled => "occupation, gender settled",
            Construction::Unsettled => "occupation, gender unsettled",
        }
    }
}

/// A sentence and its translation.
#[derive(Clone, Debug)]
pub struct Pair {
    pub english: Vec<String>,
    pub french: Vec<String>,
    /// Which English word, counted from 0, is sure of which French one.
    pub sure: Vec<(usize, usize)>,
    pub possible: Vec<(usize, usize)>,
    /// Whether it has a pair of words that are never together in training.
    pub is_held_out: bool,
    /// Its French with an occupation of the other gender, where nothing settles it.
    pub twin: Option<String>,
}

impl Pair {
    pub fn source(&self) -> String {
        self.english.join(" ")
    }

    pub fn target(&self) -> String {
        self.french.join(" ")
    }

    /// Links as they are usually written, `0-0 1?2`.
    pub fn alignment(&self) -> String {
        let mut links: Vec<(usize, usize, char)> = self.sure.iter().map(|&(a, b)| (a, b, '-')).collect();
        links.extend(self.possible.iter().map(|&(a, b)| (a, b, '?')));
        links.sort_unstable();
        let links: Vec<String> = links.into_iter().map(|(a, b, kind)| format!("{a}{kind}{b}")).collect();
        links.join(" ")
    }
}

/// FNV-1a, of 64 bits.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One pair in eleven of an adjective or a verb with a noun.
fn is_held_out(word: &str, noun: &str) -> bool {
    (hash(&format!("{word} {noun}")) >> 20).is_multiple_of(11)
}

/// An English word, with its number.
type English = (usize, String);

/// What a subject makes its verb agree with: je, tu, il, nous, ils.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Agreement {
    person: usize,
    gender: Gender,
    is_plural: bool,
}

/// Something with a noun, or a pronoun in its place.
#[derive(Clone)]
struct Phrase {
    english: Vec<English>,
    determiner: Option<(English, Determiner)>,
    before: Vec<Word>,
    rest: Vec<Word>,
    agreement: Agreement,
    noun: Option<(Noun, usize)>,
}

/// English, French of masculine, feminine and plural, and whether it stands before singulars and plurals.
type Determiner = (&'static str, [&'static str; 3], bool, bool);

const THE: Determiner = ("the", ["le", "la", "les"], true, true);
const A: Determiner = ("a", ["un", "une", "des"], true, false);
const OTHER_DETERMINERS: [Determiner; 10] = [
    ("some", ["", "", "des"], false, true),
    ("this", ["ce", "cette", ""], true, false),
    ("these", ["", "", "ces"], false, true),
    ("my", ["mon", "ma", "mes"], true, true),
    ("your", ["ton", "ta", "tes"], true, true),
    ("his", ["son", "sa", "ses"], true, true),
    ("her", ["son", "sa", "ses"], true, true),
    ("our", ["notre", "notre", "nos"], true, true),
    ("two", ["", "", "deux"], false, true),
    ("three", ["", "", "trois"], false, true),
];

const SUBJECTS: [(&str, &str, usize, Gender); 6] = [
    ("i", "je", 0, Gender::Masculine),
    ("you", "tu", 1, Gender::Masculine),
    ("he", "il", 2, Gender::Masculine),
    ("she", "elle", 2, Gender::Feminine),
    ("we", "nous", 3, Gender::Masculine),
    ("they", "ils", 4, Gender::Masculine),
];

/// An object's pronoun: English, French, French of the dative, person, gender.
type Pronoun = (&'static str, &'static str, &'static str, usize, Gender);

const OBJECTS: [Pronoun; 6] = [
    ("me", "me", "me", 0, Gender::Masculine),
    ("you", "te", "te", 1, Gender::Masculine),
    ("him", "le", "lui", 2, Gender::Masculine),
    ("her", "la", "lui", 2, Gender::Feminine),
    ("us", "nous", "nous", 3, Gender::Masculine),
    ("them", "les", "leur", 4, Gender::Masculine),
];

const BE: [&str; 5] = ["suis", "es", "est", "sommes", "sont"];
const HAVE: [&str; 5] = ["ai", "as", "a", "avons", "ont"];

const PLACES: [(&[&str], &str); 4] =
    [(&["in"], "dans"), (&["under"], "sous"), (&["behind"], "derrière"), (&["in", "front", "of"], "devant")];

/// What stands behind a verb.
enum Object {
    None,
    Phrase(Box<Phrase>),
    Pronoun(English, &'static str, Gender, bool),
}

enum Dative {
    None,
    Phrase(Box<Phrase>),
    Pronoun(English, &'static str),
}

/// How a verb is used.
#[derive(Clone, Copy, Default)]
struct Use {
    is_past: bool,
    negation: Option<&'static str>,
    asks: bool,
}

struct Said {
    english: Vec<English>,
    french: Vec<Word>,
    /// What stands before the subject in a question.
    auxiliary: Option<English>,
}

pub struct Grammar {
    rng: ChaCha8Rng,
    lexicon: Lexicon,
    words: usize,
    pairs: Vec<(&'static str, &'static str)>,
    /// Whether the occupation that was named last is a woman's.
    is_woman: bool,
    /// What is taken in place of what is drawn.
    forced: Option<bool>,
}

impl Grammar {
    pub fn new(seed: u64) -> Grammar {
        Grammar {
            rng: ChaCha8Rng::seed_from_u64(seed),
            lexicon: Lexicon::read(),
            words: 0,
            pairs: Vec::new(),
            is_woman: false,
            forced: None,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        *all.choose(&mut self.rng).expect("a choice")
    }

    fn english(&mut self, text: &str) -> English {
        self.words += 1;
        (self.words, text.to_string())
    }

    fn noun(&mut self, sorts: &[Sort]) -> Noun {
        let all: Vec<Noun> =
            self.lexicon.nouns.iter().copied().filter(|noun| sorts.contains(&noun.sort)).collect();
        self.one(&all)
    }

    fn adjective(&mut self, noun: &Noun) -> Adjective {
        let is_said = |adjective: &Adjective| adjective.is_said_of(noun.sort);
        let all: Vec<Adjective> = self.lexicon.adjectives.iter().copied().filter(is_said).collect();
        let adjective = self.one(&all);
        self.pairs.push((adjective.english, noun.english[0]));
        adjective
    }

    /// A verb that takes such an object.
    fn verb(&mut self, noun: &Noun) -> Verb {
        let all: Vec<Verb> =
            self.lexicon.transitive.iter().copied().filter(|verb| verb.takes(noun.sort)).collect();
        let verb = self.one(&all);
        self.pairs.push((verb.english[0], noun.english[0]));
        verb
    }

    fn determiner(&mut self, is_plural: bool) -> Determiner {
        let share: f64 = self.rng.random();
        match share {
            ..0.45 => THE,
            ..0.6 if !is_plural => A,
            _ => {
                let fits = |own: &Determiner| if is_plural { own.3 } else { own.2 };
                let all: Vec<Determiner> = OTHER_DETERMINERS.iter().copied().filter(fits).collect();
                self.one(&all)
            }
        }
    }

    /// A determiner, adjectives, a noun.
    fn phrase(
        &mut self,
        noun: Noun,
        determiner: Option<Determiner>,
        is_plural: bool,
        adjectives: f64,
    ) -> Phrase {
        let of = determiner.unwrap_or_else(|| self.determiner(is_plural));
        let mut the = self.english(of.0);
        let number = usize::from(is_plural);
        let mut chosen: Vec<Adjective> = Vec::new();
        if self.chance(adjectives) {
            let first = self.adjective(&noun);
            chosen.push(first);
            if self.chance(0.12) {
                let second = self.adjective(&noun);
                if second.is_before != first.is_before {
                    chosen.push(second);
                    chosen.sort_by_key(|adjective| !adjective.is_before);
                }
            }
        }
        let (mut english, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for adjective in chosen {
            let word = self.english(adjective.english);
            let french = Word::new(adjective.french(noun.gender, is_plural), &[word.0]);
            match adjective.is_before {
                true if noun.gender == Gender::Masculine && !is_plural => {
                    before.push(french.with_role(Role::BeforeNoun));
                }
                true => before.push(french),
                false => after.push(french),
            }
            english.push(word);
        }
        let word = self.english(noun.english[number]);
        let mut rest = vec![Word::new(noun.french[number], &[word.0])];
        rest.extend(after);
        let at = word.0;
        english.push(word);
        if the.1 == "a" && english[0].1.starts_with(['a', 'e', 'i', 'o', 'u']) {
            the.1 = "an".into();
        }
        english.insert(0, the.clone());
        let agreement = Agreement { person: if is_plural { 4 } else { 2 }, gender: noun.gender, is_plural };
        Phrase { english, determiner: Some((the, of)), before, rest, agreement, noun: Some((noun, at)) }
    }

    fn any_phrase(&mut self, sorts: &[Sort], adjectives: f64) -> Phrase {
        let (noun, is_plural) = (self.noun(sorts), self.chance(0.3));
        self.phrase(noun, None, is_plural, adjectives)
    }

    /// What someone has: the girl 's dog, le chien de la fille.
    fn genitive(&mut self, sorts: &[Sort]) -> Phrase {
        let owner = self.noun(&[Sort::Person, Sort::Animal]);
        let determiner = self.one(&[THE, THE, OTHER_DETERMINERS[3], OTHER_DETERMINERS[1]]);
        let owner = self.phrase(owner, Some(determiner), false, 0.25);
        let (noun, is_plural) = (self.noun(sorts), self.chance(0.3));
        let mut owned = self.phrase(noun, Some(THE), is_plural, 0.25);
        // The article of what is owned is no word of English: it comes with the mark.
        let mark = self.english("'s");
        let at = owned.noun.map_or(mark.0, |(_, at)| at);
        let article = ((mark.0, String::new()), THE);
        let english = owned.english.split_off(1);
        owned.determiner = Some(article);
        owned.english = owner.english.clone();
        owned.english.push(mark.clone());
        owned.english.extend(english);
        for word in &mut owned.before {
            word.possible.retain(|&possible| possible != at);
        }
        owned.rest.push(Word::new("de", &[mark.0]));
        owned.rest.extend(french(&owner, false));
        owned
    }

    /// A phrase whose noun is told more of: the cat that sees me, the key that he lost.
    fn with_relative(&mut self, mut phrase: Phrase) -> Phrase {
        let Some((noun, _)) = phrase.noun else { return phrase };
        let that = self.english("that");
        if self.chance(0.5) {
            let said = self.inner_clause(phrase.agreement);
            phrase.english.push(that.clone());
            phrase.english.extend(said.english);
            phrase.rest.push(Word::new("qui", &[that.0]));
            phrase.rest.extend(said.french);
            return phrase;
        }
        let verb = self.verb(&noun);
        let subject = match self.chance(0.5) {
            true => self.pronoun(),
            false => self.any_phrase(&[Sort::Person, Sort::Animal], 0.2),
        };
        let is_past = self.chance(0.4);
        let (person, third) = (subject.agreement.person, usize::from(subject.agreement.person == 2));
        let of_verb = self.english(verb.english[if is_past { 2 } else { third }]);
        phrase.english.push(that.clone());
        phrase.english.extend(subject.english.clone());
        phrase.english.push(of_verb.clone());
        let mut possible = Vec::new();
        if let Some(particle) = verb.particle {
            let particle = self.english(particle);
            possible.push(particle.0);
            phrase.english.push(particle);
        }
        phrase.rest.push(Word::new("que", &[that.0]));
        phrase.rest.extend(french(&subject, false));
        let Agreement { gender, is_plural, .. } = phrase.agreement;
        if is_past {
            phrase.rest.push(Word::new(HAVE[person], &[]).with_possible(&[of_verb.0]));
            let participle = agreed(verb.participle, gender == Gender::Feminine, is_plural);
            phrase.rest.push(Word::new(&participle, &[of_verb.0]).with_possible(&possible));
        } else {
            phrase.rest.push(Word::new(verb.present[person], &[of_verb.0]).with_possible(&possible));
        }
        phrase
    }

    fn pronoun(&mut self) -> Phrase {
        let (english, text, person, gender) = self.one(&SUBJECTS);
        let word = self.english(english);
        Phrase {
            rest: vec![Word::new(text, &[word.0])],
            english: vec![word],
            determiner: None,
            before: Vec::new(),
            agreement: Agreement { person, gender, is_plural: person > 2 },
            noun: None,
        }
    }

    fn subject(&mut self) -> Phrase {
        match self.chance(0.45) {
            true => self.pronoun(),
            false => self.any_phrase(&[Sort::Person, Sort::Animal], 0.4),
        }
    }

    /// A pronoun that a subject of this person can have as its object.
    fn object(&mut self, person: usize) -> Pronoun {
        let fits = |own: &Pronoun| {
            let of_speakers = |person: usize| matches!(person, 0 | 3);
            !(own.3 == 1 && person == 1 || of_speakers(own.3) && of_speakers(person))
        };
        let all: Vec<Pronoun> = OBJECTS.iter().copied().filter(fits).collect();
        self.one(&all)
    }

    /// A verb with what belongs to it, behind a subject.
    fn said(&mut self, verb: &Verb, of: Agreement, how: Use, object: Object, dative: Dative) -> Said {
        let Use { is_past, negation, asks } = how;
        let third = usize::from(of.person == 2);
        let negated = negation.map(|text| self.english(text));
        let needs_do = asks || negation == Some("not");
        let auxiliary = needs_do.then(|| {
            let text = if is_past { "did" } else { ["do", "does"][third] };
            self.english(text)
        });
        let adverb = match negation.is_none() && !asks && self.chance(0.1) {
            true => {
                let (english, text) = self.one(&[("often", "souvent"), ("always", "toujours")]);
                Some((self.english(english), text))
            }
            false => None,
        };
        let form = if needs_do {
            0
        } else if is_past {
            2
        } else {
            third
        };
        let of_verb = self.english(verb.english[form]);
        let particle = verb.particle.map(|particle| self.english(particle));
        let mut english: Vec<English> = Vec::new();
        english.extend(auxiliary.clone().filter(|_| !asks));
        english.extend(negated.clone());
        english.extend(adverb.clone().map(|(word, _)| word));
        english.push(of_verb.clone());
        english.extend(particle.clone());
        let mut possible: Vec<usize> = particle.iter().chain(&auxiliary).map(|word| word.0).collect();
        let (mut clitics, mut tail) = (Vec::new(), Vec::new());
        let (mut of_participle, is_negated) = ((false, false), negation.is_some());
        let mut behind: Vec<English> = Vec::new();
        match object {
            Object::None => {}
            Object::Pronoun(word, text, gender, is_plural) => {
                clitics.push(Word::new(text, &[word.0]));
                of_participle = (gender == Gender::Feminine, is_plural);
                behind.push(word);
            }
            Object::Phrase(phrase) => {
                tail.extend(french(&phrase, is_negated));
                behind.extend(phrase.english);
            }
        }
        match dative {
            Dative::None => {}
            Dative::Pronoun(word, text) => {
                clitics.push(Word::new(text, &[word.0]));
                match self.chance(0.5) {
                    true => behind.insert(0, word),
                    false => {
                        let to = self.english("to");
                        if let Some(clitic) = clitics.last_mut() {
                            clitic.possible.push(to.0);
                        }
                        behind.extend([to, word]);
                    }
                }
            }
            Dative::Phrase(phrase) => {
                let to = self.english("to");
                tail.push(Word::new("à", &[to.0]));
                tail.extend(french(&phrase, false));
                behind.push(to);
                behind.extend(phrase.english);
            }
        }
        english.extend(behind);
        let mut said = Vec::new();
        said.extend(negated.iter().map(|word| Word::new("ne", &[word.0])));
        said.extend(clitics);
        let second = |said: &mut Vec<Word>| {
            if let Some(word) = &negated {
                said.push(Word::new(if word.1 == "not" { "pas" } else { "jamais" }, &[word.0]));
            }
            if let Some((word, text)) = &adverb {
                said.push(Word::new(text, &[word.0]));
            }
        };
        if is_past {
            let of_have: Vec<usize> = auxiliary.iter().map(|word| word.0).chain([of_verb.0]).collect();
            possible.retain(|own| auxiliary.as_ref().is_none_or(|word| word.0 != *own));
            said.push(Word::new(HAVE[of.person], &[]).with_possible(&of_have));
            second(&mut said);
            let participle = agreed(verb.participle, of_participle.0, of_participle.1);
            said.push(Word::new(&participle, &[of_verb.0]).with_possible(&possible));
        } else {
            said.push(Word::new(verb.present[of.person], &[of_verb.0]).with_possible(&possible));
            second(&mut said);
        }
        said.extend(tail);
        Said { english, french: said, auxiliary: auxiliary.filter(|_| asks) }
    }

    /// is, with an adjective.
    fn is(&mut self, of: Agreement, adjective: &Adjective, how: Use) -> Said {
        let be = self.english(match of.person {
            0 => "am",
            2 => "is",
            _ => "are",
        });
        let negated = how.negation.map(|text| self.english(text));
        let word = self.english(adjective.english);
        let mut said = Vec::new();
        said.extend(negated.iter().map(|word| Word::new("ne", &[word.0])));
        said.push(Word::new(BE[of.person], &[be.0]));
        if let Some(word) = &negated {
            said.push(Word::new(if word.1 == "not" { "pas" } else { "jamais" }, &[word.0]));
        }
        said.push(Word::new(adjective.french(of.gender, of.is_plural), &[word.0]));
        let mut english = Vec::new();
        english.extend(Some(be.clone()).filter(|_| !how.asks));
        english.extend(negated);
        english.push(word);
        Said { english, french: said, auxiliary: Some(be).filter(|_| how.asks) }
    }

    /// An adjective of whatever a phrase names.
    fn adjective_of(&mut self, phrase: &Phrase) -> Adjective {
        match phrase.noun {
            Some((noun, _)) => self.adjective(&noun),
            None => {
                let is_said = |adjective: &Adjective| adjective.is_said_of(Sort::Person);
                let all: Vec<Adjective> = self.lexicon.adjectives.iter().copied().filter(is_said).collect();
                self.one(&all)
            }
        }
    }

    /// A verb with its object, where no more is told.
    fn inner_clause(&mut self, of: Agreement) -> Said {
        let how = Use { is_past: self.chance(0.35), ..Use::default() };
        match self.rng.random_range(0..3) {
            0 => {
                let verbs = self.lexicon.intransitive.clone();
                let verb = self.one(&verbs);
                self.said(&verb, of, how, Object::None, Dative::None)
            }
            1 => {
                let verb = self.verb_of_persons();
                let pronoun = self.object(of.person);
                let object = self.pronoun_object(pronoun);
                self.said(&verb, of, how, object, Dative::None)
            }
            _ => {
                let phrase = self.any_phrase(&[Sort::Person, Sort::Animal, Sort::Thing], 0.25);
                self.with_object(phrase, of, how)
            }
        }
    }

    fn verb_of_persons(&mut self) -> Verb {
        let all: Vec<Verb> =
            self.lexicon.transitive.iter().copied().filter(|verb| verb.takes(Sort::Person)).collect();
        self.one(&all)
    }

    fn pronoun_object(&mut self, (english, text, _, person, gender): Pronoun) -> Object {
        Object::Pronoun(self.english(english), text, gender, person > 2)
    }

    fn with_object(&mut self, phrase: Phrase, of: Agreement, how: Use) -> Said {
        let verb = match phrase.noun {
            Some((noun, _)) => self.verb(&noun),
            None => self.verb_of_persons(),
        };
        self.said(&verb, of, how, Object::Phrase(Box::new(phrase)), Dative::None)
    }

    /// Where something is: in the garden.
    fn place(&mut self) -> Said {
        let (english, text) = self.one(&PLACES);
        let words: Vec<English> = english.iter().map(|word| self.english(word)).collect();
        let noun = self.noun(if english[0] == "under" { &[Sort::Thing] } else { &[Sort::Place] });
        let determiner = self.one(&[THE, THE, A, OTHER_DETERMINERS[3], OTHER_DETERMINERS[1]]);
        let phrase = self.phrase(noun, Some(determiner), false, 0.3);
        let of: Vec<usize> = words.iter().map(|word| word.0).collect();
        // Of several words the one that says most is sure: in front of.
        let sure = of[of.len() / 2];
        let possible: Vec<usize> = of.iter().copied().filter(|own| *own != sure).collect();
        let mut said = vec![Word::new(text, &[sure]).with_possible(&possible)];
        said.extend(french(&phrase, false));
        Said { english: words.into_iter().chain(phrase.english).collect(), french: said, auxiliary: None }
    }

    /// Someone by what they do. `is_woman` says whose it is; otherwise it is drawn.
    fn worker(&mut self, is_woman: Option<bool>, adjectives: f64) -> Phrase {
        let occupation = self.rng.random_range(0..OCCUPATIONS.len());
        let drawn = self.rng.random_bool(share_of_women(occupation));
        let is_woman = is_woman.or(self.forced).unwrap_or(drawn);
        self.is_woman = is_woman;
        let determiner =
            self.one(&[THE, THE, THE, A, OTHER_DETERMINERS[3], OTHER_DETERMINERS[7], OTHER_DETERMINERS[1]]);
        self.phrase(worker(occupation, is_woman), Some(determiner), false, adjectives)
    }

    fn use_of(&mut self) -> Use {
        Use { is_past: self.chance(0.35), ..Use::default() }
    }

    /// A sentence of a construction; nothing where it came out too long.
    fn attempt(&mut self, construction: Construction) -> Option<Pair> {
        self.words = 0;
        self.pairs.clear();
        let all = [Sort::Person, Sort::Animal, Sort::Thing];
        let mut how = self.use_of();
        let (subject, said) = match construction {
            Construction::Statement => {
                let subject = self.subject();
                let mut said = match self.chance(0.3) {
                    true => {
                        let verbs = self.lexicon.intransitive.clone();
                        let verb = self.one(&verbs);
                        self.said(&verb, subject.agreement, how, Object::None, Dative::None)
                    }
                    false => {
                        let object = self.any_phrase(&all, 0.45);
                        self.with_object(object, subject.agreement, how)
                    }
                };
                if self.chance(0.4) {
                    let place = self.place();
                    said.english.extend(place.english);
                    said.french.extend(place.french);
                }
                (subject, said)
            }
            Construction::Negation => {
                how.negation = Some(if self.chance(0.7) { "not" } else { "never" });
                let subject = self.subject();
                let said = self.predicate(&subject, how);
                (subject, said)
            }
            Construction::Question => {
                how.asks = true;
                how.negation = self.chance(0.25).then_some("not");
                let subject = self.subject();
                let said = self.predicate(&subject, how);
                (subject, said)
            }
            Construction::ObjectPronoun => {
                how.negation = self.chance(0.3).then_some("not");
                how.asks = self.chance(0.15);
                let subject = self.subject();
                let verb = self.verb_of_persons();
                let pronoun = self.object(subject.agreement.person);
                let object = self.pronoun_object(pronoun);
                let said = self.said(&verb, subject.agreement, how, object, Dative::None);
                (subject, said)
            }
            Construction::Giving => {
                how.negation = self.chance(0.25).then_some("not");
                let subject = self.subject();
                let things = self.lexicon.ditransitive.clone();
                let verb = self.one(&things);
                let object = self.any_phrase(&[Sort::Thing], 0.3);
                if let Some((noun, _)) = object.noun {
                    self.pairs.push((verb.english[0], noun.english[0]));
                }
                let dative = match self.chance(0.5) {
                    true => {
                        let (english, _, text, ..) = self.object(subject.agreement.person);
                        Dative::Pronoun(self.english(english), text)
                    }
                    false => {
                        let noun = self.noun(&[Sort::Person]);
                        let determiner = self.one(&[THE, THE, OTHER_DETERMINERS[3], OTHER_DETERMINERS[5]]);
                        Dative::Phrase(Box::new(self.phrase(noun, Some(determiner), false, 0.2)))
                    }
                };
                let said = self.said(&verb, subject.agreement, how, Object::Phrase(Box::new(object)), dative);
                (subject, said)
            }
            Construction::Copula => {
                let subject = match self.chance(0.3) {
                    true => self.pronoun(),
                    false => self.any_phrase(&[Sort::Person, Sort::Animal, Sort::Thing, Sort::Place], 0.3),
                };
                how.negation = self.chance(0.3).then_some("not");
                how.asks = self.chance(0.2);
                let adjective = self.adjective_of(&subject);
                let said = self.is(subject.agreement, &adjective, how);
                (subject, said)
            }
            Construction::Genitive => {
                how.negation = self.chance(0.2).then_some("not");
                match self.chance(0.5) {
                    true => {
                        let subject = self.genitive(&[Sort::Person, Sort::Animal, Sort::Thing]);
                        let adjective = self.adjective_of(&subject);
                        let said = self.is(subject.agreement, &adjective, how);
                        (subject, said)
                    }
                    false => {
                        let subject = self.subject();
                        let object = self.genitive(&all);
                        let said = self.with_object(object, subject.agreement, how);
                        (subject, said)
                    }
                }
            }
            Construction::Relative => {
                let determiner = self.one(&[THE, THE, A, OTHER_DETERMINERS[1], OTHER_DETERMINERS[3]]);
                match self.chance(0.5) {
                    true => {
                        let noun = self.noun(&[Sort::Person, Sort::Animal]);
                        let subject = self.phrase(noun, Some(determiner), false, 0.2);
                        let subject = self.with_relative(subject);
                        let said = match self.chance(0.4) {
                            true => {
                                let adjective = self.adjective_of(&subject);
                                self.is(subject.agreement, &adjective, Use::default())
                            }
                            false => self.inner_clause(subject.agreement),
                        };
                        (subject, said)
                    }
                    false => {
                        let subject = self.subject();
                        let noun = self.noun(&all);
                        let object = self.phrase(noun, Some(determiner), false, 0.2);
                        let verb = self.verb(&noun);
                        let object = self.with_relative(object);
                        let said = self.said(
                            &verb,
                            subject.agreement,
                            how,
                            Object::Phrase(Box::new(object)),
                            Dative::None,
                        );
                        (subject, said)
                    }
                }
            }
            Construction::Antecedent => self.antecedent(how),
            Construction::Settled => self.settled(how)?,
            Construction::Unsettled => self.unsettled(how),
        };
        self.pair(subject, said, how.asks)
    }

    fn predicate(&mut self, subject: &Phrase, how: Use) -> Said {
        if self.chance(0.2) {
            let adjective = self.adjective_of(subject);
            return self.is(subject.agreement, &adjective, how);
        }
        if self.chance(0.25) {
            let verbs = self.lexicon.intransitive.clone();
            let verb = self.one(&verbs);
            return self.said(&verb, subject.agreement, how, Object::None, Dative::None);
        }
        let object = self.any_phrase(&[Sort::Person, Sort::Animal, Sort::Thing], 0.35);
        self.with_object(object, subject.agreement, how)
    }

    /// it, which is le or la, il or elle, by what it stands for: she takes the key and loses it.
    fn antecedent(&mut self, how: Use) -> (Phrase, Said) {
        let subject = self.subject();
        let noun = self.noun(&[Sort::Thing]);
        let object = self.phrase(noun, None, false, 0.25);
        let mut said = self.with_object(object, subject.agreement, how);
        let negation = self.chance(0.25).then_some("not");
        if self.chance(0.55) {
            let and = self.english("and");
            let verb = self.verb(&noun);
            let it = self.english("it");
            let text = if noun.gender == Gender::Masculine { "le" } else { "la" };
            let object = Object::Pronoun(it, text, noun.gender, false);
            let more = self.said(&verb, subject.agreement, Use { negation, ..how }, object, Dative::None);
            said.french.push(Word::new("et", &[and.0]));
            said.english.push(and);
            said.english.extend(more.english);
            said.french.extend(more.french);
        } else {
            let but = self.english("but");
            let it = self.english("it");
            let adjective = self.adjective(&noun);
            let of = Agreement { person: 2, gender: noun.gender, is_plural: false };
            let more = self.is(of, &adjective, Use { negation, ..Use::default() });
            said.french.push(Word::new("mais", &[but.0]));
            said.french
                .push(Word::new(if noun.gender == Gender::Masculine { "il" } else { "elle" }, &[it.0]));
            said.english.extend([but, it]);
            said.english.extend(more.english);
            said.french.extend(more.french);
        }
        (subject, said)
    }

    /// An occupation of someone whom a pronoun tells: she is a nurse; the nurse thinks that she is happy.
    fn settled(&mut self, how: Use) -> Option<(Phrase, Said)> {
        let is_woman = self.chance(0.5);
        let (english, text) = if is_woman { ("she", "elle") } else { ("he", "il") };
        if self.chance(0.3) {
            let pronoun = self.english(english);
            let occupation = self.rng.random_range(0..OCCUPATIONS.len());
            let be = self.english("is");
            let negated = self.chance(0.2).then(|| self.english("not"));
            let vowel = OCCUPATIONS[occupation][0].starts_with(['a', 'e', 'i', 'o', 'u']);
            let a = self.english(if vowel { "an" } else { "a" });
            let word = self.english(OCCUPATIONS[occupation][0]);
            let mut said = Vec::new();
            said.extend(negated.iter().map(|word| Word::new("ne", &[word.0])));
            said.push(Word::new("est", &[be.0]));
            said.extend(negated.iter().map(|word| Word::new("pas", &[word.0])));
            let own = OCCUPATIONS[occupation][1 + usize::from(is_woman)];
            // French has no article here.
            said.push(Word::new(own, &[word.0]).with_possible(&[a.0]));
            let gender = if is_woman { Gender::Feminine } else { Gender::Masculine };
            let agreement = Agreement { person: 2, gender, is_plural: false };
            let subject = Phrase {
                rest: vec![Word::new(text, &[pronoun.0])],
                english: vec![pronoun],
                determiner: None,
                before: Vec::new(),
                agreement,
                noun: None,
            };
            let mut english = vec![be];
            english.extend(negated);
            english.extend([a, word]);
            return Some((subject, Said { english, french: said, auxiliary: None }));
        }
        let subject = self.worker(Some(is_woman), 0.25);
        let of = subject.agreement;
        let (mut english, mut said) = (Vec::new(), Vec::new());
        if self.chance(0.6) {
            let verbs = self.lexicon.saying.clone();
            let verb = self.one(&verbs);
            let first = self.said(&verb, of, how, Object::None, Dative::None);
            let that = self.english("that");
            english.extend(first.english);
            said.extend(first.french);
            said.push(Word::new("que", &[that.0]));
            english.push(that);
        } else {
            let first = self.inner_clause(of);
            let because = self.english("because");
            english.extend(first.english);
            said.extend(first.french);
            said.push(Word::new("parce", &[because.0]));
            said.push(Word::new("que", &[because.0]));
            english.push(because);
        }
        let pronoun = self.english(english_of(is_woman));
        said.push(Word::new(text, &[pronoun.0]));
        english.push(pronoun);
        let (noun, _) = subject.noun?;
        let second = match self.chance(0.5) {
            true => {
                let is_said = |adjective: &Adjective| adjective.is_said_of(Sort::Person);
                let all: Vec<Adjective> = self.lexicon.adjectives.iter().copied().filter(is_said).collect();
                let adjective = self.one(&all);
                self.pairs.push((adjective.english, noun.english[0]));
                self.is(of, &adjective, Use::default())
            }
            false => {
                let verbs = self.lexicon.intransitive.clone();
                let verb = self.one(&verbs);
                let how = self.use_of();
                self.said(&verb, of, how, Object::None, Dative::None)
            }
        };
        english.extend(second.english);
        said.extend(second.french);
        Some((subject, Said { english, french: said, auxiliary: None }))
    }

    /// An occupation of someone of whom nothing else is told.
    fn unsettled(&mut self, mut how: Use) -> (Phrase, Said) {
        how.negation = self.chance(0.15).then_some("not");
        match self.rng.random_range(0..3) {
            0 => {
                let subject = self.worker(None, 0.3);
                let said = self.inner_clause(subject.agreement);
                (subject, said)
            }
            1 => {
                let subject = self.worker(None, 0.2);
                let adjective = self.adjective_of(&subject);
                let said = self.is(subject.agreement, &adjective, how);
                (subject, said)
            }
            _ => {
                let subject = self.subject();
                let object = self.worker(None, 0.3);
                let verb = self.verb_of_persons();
                if let Some((noun, _)) = object.noun {
                    self.pairs.push((verb.english[0], noun.english[0]));
                }
                let said =
                    self.said(&verb, subject.agreement, how, Object::Phrase(Box::new(object)), Dative::None);
                (subject, said)
            }
        }
    }

    /// What is beyond the grammar that is learned: a relative clause within a relative clause.
    pub fn nested(&mut self) -> Option<Pair> {
        self.words = 0;
        self.pairs.clear();
        let noun = self.noun(&[Sort::Person, Sort::Animal]);
        let mut subject = self.phrase(noun, Some(THE), false, 0.0);
        let that = self.english("that");
        let inner = self.noun(&[Sort::Person, Sort::Animal]);
        let verb = self.verb(&inner);
        let object = self.phrase(inner, Some(THE), false, 0.0);
        let object = self.with_relative(object);
        let said = self.said(
            &verb,
            subject.agreement,
            Use::default(),
            Object::Phrase(Box::new(object)),
            Dative::None,
        );
        subject.english.push(that.clone());
        subject.english.extend(said.english);
        subject.rest.push(Word::new("qui", &[that.0]));
        subject.rest.extend(said.french);
        let adjective = self.adjective_of(&subject);
        let said = self.is(subject.agreement, &adjective, Use::default());
        self.pair(subject, said, false)
    }

    /// Puts the words in their order, and counts the links.
    fn pair(&mut self, subject: Phrase, said: Said, asks: bool) -> Option<Pair> {
        const LONGEST: usize = 17;
        let end = self.english(if asks { "?" } else { "." });
        let mut english: Vec<English> = said.auxiliary.iter().cloned().collect();
        english.extend(subject.english.iter().cloned());
        english.extend(said.english);
        english.push(end.clone());
        let mut all: Vec<Word> = Vec::new();
        if asks {
            // What asks is the order of the English words and the mark.
            let of: Vec<usize> = said.auxiliary.iter().map(|word| word.0).chain([end.0]).collect();
            all.push(Word::new("est-ce", &[]).with_possible(&of));
            all.push(Word::new("que", &[]).with_possible(&of));
        }
        all.extend(french(&subject, false));
        all.extend(said.french);
        all.push(Word::new(&end.1, &[end.0]));
        let all = written(all);
        if english.len() > LONGEST || all.len() > LONGEST + 3 {
            return None;
        }
        let place = |number: usize| english.iter().position(|(own, _)| *own == number);
        let (mut sure, mut possible) = (Vec::new(), Vec::new());
        for (index, word) in all.iter().enumerate() {
            sure.extend(word.sure.iter().filter_map(|&number| Some((place(number)?, index))));
            possible.extend(word.possible.iter().filter_map(|&number| Some((place(number)?, index))));
        }
        possible.retain(|link| !sure.contains(link));
        Some(Pair {
            english: english.into_iter().map(|(_, text)| text).collect(),
            french: all.into_iter().map(|word| word.text).collect(),
            sure,
            possible,
            is_held_out: self.pairs.iter().any(|(word, noun)| is_held_out(word, noun)),
            twin: None,
        })
    }

    /// A sentence of a construction that is held out, or one that is not.
    pub fn sentence(&mut self, construction: Construction, held_out: bool) -> Pair {
        loop {
            let before = self.rng.clone();
            let Some(mut pair) = self.attempt(construction).filter(|pair| pair.is_held_out == held_out)
            else {
                continue;
            };
            if construction == Construction::Unsettled {
                // The same draws, with the other gender.
                let after = std::mem::replace(&mut self.rng, before);
                self.forced = Some(!self.is_woman);
                pair.twin = self.attempt(construction).map(|twin| twin.target());
                (self.forced, self.rng) = (None, after);
            }
            return pair;
        }
    }

    /// One for training, of any construction.
    pub fn any(&mut self) -> Pair {
        let construction = match self.rng.random_range(0..100) {
            ..14 => Construction::Statement,
            14..25 => Construction::Negation,
            25..34 => Construction::Question,
            34..44 => Construction::ObjectPronoun,
            44..51 => Construction::Giving,
            51..60 => Construction::Copula,
            60..68 => Construction::Genitive,
            68..79 => Construction::Relative,
            79..88 => Construction::Antecedent,
            88..94 => Construction::Settled,
            _ => Construction::Unsettled,
        };
        self.sentence(construction, false)
    }
}

fn english_of(is_woman: bool) -> &'static str {
    if is_woman { "she" } else { "he" }
}

/// An occupation as a noun.
fn worker(occupation: usize, is_woman: bool) -> Noun {
    let [english, man, woman] = OCCUPATIONS[occupation];
    Noun {
        english: [english, english],
        french: if is_woman { [woman, woman] } else { [man, man] },
        gender: if is_woman { Gender::Feminine } else { Gender::Masculine },
        sort: Sort::Person,
    }
}

/// A phrase in French; `negated` where it is the object of a negated verb: pas de chat.
fn french(phrase: &Phrase, negated: bool) -> Vec<Word> {
    let mut all = Vec::new();
    if let Some((word, (english, forms, ..))) = &phrase.determiner {
        let Agreement { gender, is_plural, .. } = phrase.agreement;
        let own = match (is_plural, gender) {
            (true, _) => forms[2],
            (false, Gender::Masculine) => forms[0],
            (false, Gender::Feminine) => forms[1],
        };
        let is_some = matches!(*english, "a" | "some");
        let text = if is_some && (negated || is_plural && !phrase.before.is_empty()) { "de" } else { own };
        let role = if *english == "the" { Role::Article } else { Role::Other };
        let mut determiner = match word.1.is_empty() {
            // It has no word of its own in English.
            true => Word::new(text, &[]).with_possible(&[word.0]),
            false => Word::new(text, &[word.0]),
        };
        if let Some((_, at)) = phrase.noun {
            determiner.possible.push(at);
        }
        all.push(determiner.with_role(role));
    }
    all.extend(phrase.before.iter().cloned());
    all.extend(phrase.rest.iter().cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// English decides French, but where an occupation is unsettled.
    #[test]
    fn english_decides_french() {
        let mut known = std::collections::HashMap::new();
        let mut grammar = Grammar::new(7);
        for _ in 0..20_000 {
            let pair = grammar.any();
            if pair.twin.is_none() {
                let first = known.entry(pair.source()).or_insert_with(|| pair.target()).clone();
                assert_eq!(first, pair.target(), "{}", pair.source());
            }
        }
    }

    /// Sentences, their French and their links by hand, as the seed draws them.
    #[test]
    fn links_join_words() {
        let mut grammar = Grammar::new(1);
        for _ in 0..5000 {
            let pair = grammar.any();
            for &(source, target) in pair.sure.iter().chain(&pair.possible) {
                assert!(source < pair.english.len() && target < pair.french.len(), "{pair:?}");
            }
            // Every French word comes from somewhere.
            for index in 0..pair.french.len() {
                let links = pair.sure.iter().chain(&pair.possible);
                assert!(links.into_iter().any(|link| link.1 == index), "{} of {pair:?}", pair.french[index]);
            }
            assert!(!pair.is_held_out);
        }
    }

    #[test]
    fn shares_of_women_are_dealt_evenly() {
        let mut shares: Vec<f64> = (0..30).map(share_of_women).collect();
        shares.sort_by(f64::total_cmp);
        for (index, share) in shares.iter().enumerate() {
            assert!((share - (0.05 + 0.9 * index as f64 / 29.0)).abs() < 1e-12);
        }
    }
}
