//! The words of the grammar, English and French.

/// What a noun names, which decides what is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    Person,
    Animal,
    Thing,
    Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gender {
    Masculine,
    Feminine,
}

/// A noun: English singular and plural, French singular and plural.
#[derive(Clone, Copy, Debug)]
pub struct Noun {
    pub english: [&'static str; 2],
    pub french: [&'static str; 2],
    pub gender: Gender,
    pub sort: Sort,
}

/// Of each noun: English singular and plural, French singular and plural, gender, sort.
const NOUNS: &str = "
    girl girls fille filles f person
    boy boys garçon garçons m person
    woman women femme femmes f person
    man men homme hommes m person
    king kings roi rois m person
    queen queens reine reines f person
    sister sisters sœur sœurs f person
    brother brothers frère frères m person
    friend friends ami amis m person
    cat cats chat chats m animal
    dog dogs chien chiens m animal
    bird birds oiseau oiseaux m animal
    horse horses cheval chevaux m animal
    cow cows vache vaches f animal
    turtle turtles tortue tortues f animal
    frog frogs grenouille grenouilles f animal
    ant ants fourmi fourmis f animal
    wolf wolves loup loups m animal
    book books livre livres m thing
    car cars voiture voitures f thing
    letter letters lettre lettres f thing
    key keys clé clés f thing
    apple apples pomme pommes f thing
    hat hats chapeau chapeaux m thing
    dress dresses robe robes f thing
    flower flowers fleur fleurs f thing
    tree trees arbre arbres m thing
    umbrella umbrellas parapluie parapluies m thing
    bag bags sac sacs m thing
    knife knives couteau couteaux m thing
    picture pictures image images f thing
    sword swords épée épées f thing
    coat coats manteau manteaux m thing
    house houses maison maisons f place
    garden gardens jardin jardins m place
    school schools école écoles f place
    street streets rue rues f place
    castle castles château châteaux m place
    hotel hotels hôtel hôtels m place
    forest forests forêt forêts f place";

/// Of each adjective: English; French masculine and feminine, singular and plural; b before the noun or a after it; of which sorts it is said.
const ADJECTIVES: &str = "
    small petit petite petits petites b patc
    big grand grande grands grandes b patc
    beautiful beau belle beaux belles b patc
    old vieux vieille vieux vieilles b patc
    new nouveau nouvelle nouveaux nouvelles b tc
    young jeune jeune jeunes jeunes b pa
    pretty joli jolie jolis jolies b patc
    white blanc blanche blancs blanches a atc
    black noir noire noirs noires a atc
    red rouge rouge rouges rouges a atc
    green vert verte verts vertes a atc
    blue bleu bleue bleus bleues a atc
    heavy lourd lourde lourds lourdes a at
    happy heureux heureuse heureux heureuses a pa
    funny drôle drôle drôles drôles a pa
    strange étrange étrange étranges étranges a patc
    slow lent lente lents lentes a pa
    clever intelligent intelligente intelligents intelligentes a pa";

/// Of each verb: English base, third person and past, with what follows it (or -); French present of je, tu, il, nous, ils; the participle;
/// of which sorts its object is.
const TRANSITIVE: &str = "
    see sees saw - vois vois voit voyons voient vu patc
    find finds found - trouve trouves trouve trouvons trouvent trouvé pat
    look looks looked for cherche cherches cherche cherchons cherchent cherché pat
    hear hears heard - entends entends entend entendons entendent entendu pa
    love loves loved - aime aimes aime aimons aiment aimé patc
    watch watches watched - regarde regardes regarde regardons regardent regardé pat
    draw draws drew - dessine dessines dessine dessinons dessinent dessiné patc
    hide hides hid - cache caches cache cachons cachent caché at
    buy buys bought - achète achètes achète achetons achètent acheté at
    lose loses lost - perds perds perd perdons perdent perdu at
    take takes took - prends prends prend prenons prennent pris t
    carry carries carried - porte portes porte portons portent porté at
    wait waits waited for attends attends attend attendons attendent attendu pa
    listen listens listened to écoute écoutes écoute écoutons écoutent écouté pa";

const INTRANSITIVE: &str = "
    sleep sleeps slept - dors dors dort dormons dorment dormi -
    sing sings sang - chante chantes chante chantons chantent chanté -
    dance dances danced - danse danses danse dansons dansent dansé -
    work works worked - travaille travailles travaille travaillons travaillent travaillé -
    play plays played - joue joues joue jouons jouent joué -";

const DITRANSITIVE: &str = "
    give gives gave - donne donnes donne donnons donnent donné t
    show shows showed - montre montres montre montrons montrent montré at";

/// Verbs that say what someone says.
const SAYING: &str = "
    think thinks thought - pense penses pense pensons pensent pensé -
    say says said - dis dis dit disons disent dit -";

/// Occupations, in the order of their English names, with the French of a man and of a woman.
pub const OCCUPATIONS: [[&str; 3]; 30] = [
    ["adviser", "conseiller", "conseillère"],
    ["baker", "boulanger", "boulangère"],
    ["banker", "banquier", "banquière"],
    ["butcher", "boucher", "bouchère"],
    ["cashier", "caissier", "caissière"],
    ["cook", "cuisinier", "cuisinière"],
    ["dancer", "danseur", "danseuse"],
    ["director", "directeur", "directrice"],
    ["driver", "conducteur", "conductrice"],
    ["editor", "éditeur", "éditrice"],
    ["electrician", "électricien", "électricienne"],
    ["farmer", "agriculteur", "agricultrice"],
    ["gardener", "jardinier", "jardinière"],
    ["grocer", "épicier", "épicière"],
    ["guard", "gardien", "gardienne"],
    ["hairdresser", "coiffeur", "coiffeuse"],
    ["inspector", "inspecteur", "inspectrice"],
    ["lawyer", "avocat", "avocate"],
    ["magician", "magicien", "magicienne"],
    ["mechanic", "mécanicien", "mécanicienne"],
    ["musician", "musicien", "musicienne"],
    ["nurse", "infirmier", "infirmière"],
    ["pharmacist", "pharmacien", "pharmacienne"],
    ["researcher", "chercheur", "chercheuse"],
    ["seller", "vendeur", "vendeuse"],
    ["singer", "chanteur", "chanteuse"],
    ["student", "étudiant", "étudiante"],
    ["surgeon", "chirurgien", "chirurgienne"],
    ["teacher", "enseignant", "enseignante"],
    ["translator", "traducteur", "traductrice"],
];

/// How often an occupation is a woman's where nothing says whose it is: .05 to .95 in equal steps, dealt out by steps of eleven places in
/// the order of the alphabet, so that they follow nothing in the world.
pub fn share_of_women(occupation: usize) -> f64 {
    0.05 + 0.9 * ((occupation * 11) % OCCUPATIONS.len()) as f64 / (OCCUPATIONS.len() - 1) as f64
}

#[derive(Clone, Copy, Debug)]
pub struct Adjective {
    pub english: &'static str,
    french: [&'static str; 4],
    pub is_before: bool,
    sorts: &'static str,
}

impl Adjective {
    pub fn french(&self, gender: Gender, is_plural: bool) -> &'static str {
        self.french[2 * usize::from(is_plural) + usize::from(gender == Gender::Feminine)]
    }

    pub fn is_said_of(&self, sort: Sort) -> bool {
        self.sorts.contains(sort.letter())
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Base, third person, past.
    pub english: [&'static str; 3],
    /// What follows it in English.
    pub particle: Option<&'static str>,
    /// Of je, tu, il, nous, ils.
    pub present: [&'static str; 5],
    pub participle: &'static str,
    sorts: &'static str,
}

impl Verb {
    pub fn takes(&self, sort: Sort) -> bool {
        self.sorts.contains(sort.letter())
    }
}

impl Sort {
    fn letter(self) -> char {
        match self {
            Sort::Person => 'p',
            Sort::Animal => 'a',
            Sort::Thing => 't',
            Sort::Place => 'c',
        }
    }
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| !row.is_empty())
}

fn verbs(table: &'static str) -> Vec<Verb> {
    let verb = |row: Vec<&'static str>| Verb {
        english: [row[0], row[1], row[2]],
        particle: Some(row[3]).filter(|particle| *particle != "-"),
        present: [row[4], row[5], row[6], row[7], row[8]],
        participle: row[9],
        sorts: row[10],
    };
    rows(table).map(verb).collect()
}

/// All of it, read once.
pub struct Lexicon {
    pub nouns: Vec<Noun>,
    pub adjectives: Vec<Adjective>,
    pub transitive: Vec<Verb>,
    pub intransitive: Vec<Verb>,
    pub ditransitive: Vec<Verb>,
    pub saying: Vec<Verb>,
}

impl Lexicon {
    pub fn read() -> Lexicon {
        let noun = |row: Vec<&'static str>| Noun {
            english: [row[0], row[1]],
            french: [row[2], row[3]],
            gender: if row[4] == "f" { Gender::Feminine } else { Gender::Masculine },
            sort: match row[5] {
                "person" => Sort::Person,
                "animal" => Sort::Animal,
                "thing" => Sort::Thing,
                _ => Sort::Place,
            },
        };
        let adjective = |row: Vec<&'static str>| Adjective {
            english: row[0],
            french: [row[1], row[2], row[3], row[4]],
            is_before: row[5] == "b",
            sorts: row[6],
        };
        Lexicon {
            nouns: rows(NOUNS).map(noun).collect(),
            adjectives: rows(ADJECTIVES).map(adjective).collect(),
            transitive: verbs(TRANSITIVE),
            intransitive: verbs(INTRANSITIVE),
            ditransitive: verbs(DITRANSITIVE),
            saying: verbs(SAYING),
        }
    }
}
