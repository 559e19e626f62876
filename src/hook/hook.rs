//! Addresses of activations.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::hook::site::Site;
use crate::hook::stack::{Attn, Stack};

/// The address of one activation. Prints and parses as TransformerLens's name for the same tensor.
///
/// ```
/// use headlight::{Hook, Site};
/// let hook: Hook = "blocks.5.attn.hook_pattern".parse()?;
/// assert_eq!(hook, Site::Pattern.at(5));
/// let error = "blocks.5.attn.hook_patern".parse::<Hook>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `blocks.5.attn.hook_pattern`"));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    stack: Stack,
    layer: Option<usize>,
    attn: Attn,
    site: Site,
}

impl Site {
    /// The address of this site in a layer.
    ///
    /// ```
    /// use headlight::Site;
    /// assert_eq!(Site::Pattern.at(5).to_string(), "blocks.5.attn.hook_pattern");
    /// ```
    pub const fn at(self, layer: usize) -> Hook {
        Hook { stack: Stack::Main, layer: Some(layer), attn: Attn::Own, site: self }
    }
}

impl Hook {
    /// The same in another stack.
    ///
    /// ```
    /// use headlight::{Site, Stack};
    /// assert_eq!(Site::Z.at(1).of(Stack::Decoder).to_string(), "decoder.1.attn.hook_z");
    /// ```
    pub const fn of(self, stack: Stack) -> Hook {
        // What a model is read out by belongs to none.
        let stack = if self.site.is_of_readout() { Stack::Main } else { stack };
        Hook { stack, ..self }
    }

    /// The same of the block's cross-attention.
    ///
    /// ```
    /// use headlight::{Site, Stack};
    /// let hook = Site::Pattern.at(1).of(Stack::Decoder).cross();
    /// assert_eq!(hook.to_string(), "decoder.1.cross_attn.hook_pattern");
    /// ```
    pub const fn cross(self) -> Hook {
        Hook { attn: Attn::Cross, ..self }
    }

    /// The same in a layer.
    pub(crate) const fn in_layer(self, layer: usize) -> Hook {
        Hook { layer: Some(layer), ..self }
    }

    /// The same of the attention that is meant.
    pub(crate) const fn with_attn(self, attn: Attn) -> Hook {
        Hook { attn, ..self }
    }

    /// What kind of activation it is.
    pub fn site(self) -> Site {
        self.site
    }

    /// The layer, for a site within a block.
    pub fn layer(self) -> Option<usize> {
        self.layer
    }

    /// The stack that it is in; what a model is read out by counts as of the main one.
    pub fn stack(self) -> Stack {
        self.stack
    }

    /// Which attention it is of; the own one for what is of none.
    pub fn attn(self) -> Attn {
        self.attn
    }

    /// Whether a run meets it behind the blocks of its stack.
    pub(crate) fn is_after_blocks(self) -> bool {
        !self.site.in_block() && !self.site.is_of_embedding()
    }

    /// Whether it is of keys or values of another stack, at whose positions it is.
    pub(crate) fn is_of_source(self) -> bool {
        self.attn == Attn::Cross && self.site.is_of_source()
    }

    /// Fails where a site of blocks has no layer, one of a stack has one, or there is none such of cross-attention.
    pub(crate) fn check_place(self) -> Result<Hook> {
        let Hook { stack, site, .. } = self;
        match self.layer {
            Some(layer) if !site.in_block() => Err(Error::new(
                ErrorKind::Address,
                format!("`{site}` exists once in a model, not in layer {layer}"),
            )
            .help(format!("write `{site}` without a layer"))),
            None if site.in_block() => Err(Error::new(
                ErrorKind::Address,
                format!("`{site}` exists in every layer: which one is meant?"),
            )
            .help(format!("write `{}`, say", site.at(0).of(stack)))),
            _ if self.attn == Attn::Cross && !site.is_of_attention() => Err(Error::new(
                ErrorKind::Address,
                format!("`{site}` is not of attention: cross-attention has none of its own"),
            )
            .help(format!("write `{}`", self.with_attn(Attn::Own)))),
            _ => Ok(self),
        }
    }

    /// Its name within a block, or in its stack.
    fn path(self) -> String {
        match self.attn {
            Attn::Own => self.site.name().to_string(),
            Attn::Cross => self.site.cross_name(),
        }
    }
}

impl Hash for Hook {
    /// As one number: every activation of a run is looked up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let layer = self.layer.map_or(0, |layer| layer as u64 + 1);
        let kind = (self.stack as u64) << 16 | (self.attn as u64) << 8 | self.site as u64;
        state.write_u64(layer << 24 | kind);
    }
}

/// Hooks that are asked for at every activation: nobody chooses them to collide, and their number is spread by one product.
pub(crate) type HookSet = HashSet<Hook, BuildHasherDefault<HookHasher>>;

#[derive(Default)]
pub(crate) struct HookHasher(u64);

impl Hasher for HookHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 << 8 ^ u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // 2 to the 64th by the golden ratio (Knuth, "The Art of Computer Programming", 6.4).
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // Tables look at both ends, and a product says little in its lowest bits.
        self.0.rotate_left(32)
    }
}

impl From<Site> for Hook {
    fn from(site: Site) -> Self {
        Hook { stack: Stack::Main, layer: None, attn: Attn::Own, site }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, prefix) = (self.path(), self.stack.prefix());
        match (self.layer, self.stack, path.strip_prefix("ln_final.")) {
            (Some(layer), ..) => write!(f, "{}{layer}.{path}", self.stack.block_prefixes()[0]),
            (None, Stack::Encoder | Stack::Decoder, Some(last)) => {
                write!(f, "{}_final_ln.{last}", self.stack)
            }
            _ => write!(f, "{prefix}{path}"),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hook {
    type Err = Error;

    fn from_str(text: &str) -> Result<Hook> {
        let name = text.trim();
        match in_block(name) {
            Some((stack, layer, path)) => match (layer.parse(), Site::parse(path)) {
                (Ok(layer), Some((site, attn))) => site.at(layer).of(stack).with_attn(attn).check_place(),
                (layer, _) => Err(unknown(name, stack, layer.ok())),
            },
            None => once(name).ok_or_else(|| unknown(name, Stack::Main, None)),
        }
    }
}

/// Stack, layer and the rest of a name of something within a block, as far as it is one.
pub(crate) fn in_block(name: &str) -> Option<(Stack, &str, &str)> {
    Stack::ALL.into_iter().find_map(|stack| {
        stack.block_prefixes().iter().find_map(|prefix| {
            let (layer, path) = name.strip_prefix(prefix)?.split_once('.')?;
            // Of the main stack all is so named; others have names of what they have once that begin alike.
            let is_layer = stack == Stack::Main || layer.starts_with(|c: char| c.is_ascii_digit());
            is_layer.then_some((stack, layer, path))
        })
    })
}

/// A hook that a stack has once, or what a model is read out by.
fn once(name: &str) -> Option<Hook> {
    let of = |stack: Stack, path: &str| {
        let (site, attn) = Site::parse(path)?;
        Some(Hook::from(site).of(stack).with_attn(attn))
    };
    let others = Stack::ALL.into_iter().filter(|stack| *stack != Stack::Main);
    let mut found = others.filter_map(|stack| {
        let last = |middle: &str| {
            let rest = name.strip_prefix(stack.name())?.strip_prefix(middle)?;
            of(stack, &format!("ln_final.{rest}"))
        };
        let first = || of(stack, name.strip_prefix(stack.prefix())?);
        last("_final_ln.").or_else(|| last("_ln_final.")).or_else(first)
    });
    found.next().or_else(|| of(Stack::Main, name))
}

fn unknown(name: &str, stack: Stack, layer: Option<usize>) -> Error {
    let mut known: Vec<String> = Vec::new();
    for site in Site::ALL {
        match layer {
            Some(layer) if site.in_block() => {
                let hook = site.at(layer).of(stack);
                known.push(hook.to_string());
                if stack != Stack::Main && site.is_of_attention() {
                    known.push(hook.cross().to_string());
                }
            }
            _ => known.extend([site.name().to_string(), site.short_name()]),
        }
    }
    let error = Error::new(ErrorKind::Address, format!("there is no hook `{name}`"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(guess) => error.help(format!("did you mean `{guess}`?")),
        None => error
            .help("names are TransformerLens's, such as `blocks.0.attn.hook_pattern`; with a layer `pattern` does too"),
    }
}

/// What can stand for a hook: a [`Hook`], a [`Site`], a name, or a short name and a layer.
pub trait IntoHook {
    /// The hook that is meant.
    fn into_hook(self) -> Result<Hook>;
}

impl IntoHook for Hook {
    fn into_hook(self) -> Result<Hook> {
        Ok(self)
    }
}

impl IntoHook for Site {
    fn into_hook(self) -> Result<Hook> {
        Ok(self.into())
    }
}

impl IntoHook for &str {
    fn into_hook(self) -> Result<Hook> {
        self.parse()
    }
}

impl IntoHook for (&str, usize) {
    fn into_hook(self) -> Result<Hook> {
        let (name, layer) = self;
        let found = Site::parse(name.trim()).map(|(site, attn)| site.at(layer).with_attn(attn));
        found.ok_or_else(|| unknown(name, Stack::Main, None))
    }
}

impl IntoHook for (Site, usize) {
    fn into_hook(self) -> Result<Hook> {
        Ok(self.0.at(self.1))
    }
}
