//! Which names a Rust file mentions, as full paths: through `use` trees with their aliases, written out, and inside
//! macro calls and attributes. Items under `#[cfg(test)]` do not count: tests may use what the product may not.
//!
//! Names are resolved as far as a file shows them: `crate`, `self` and `super` against the module's own path, and a
//! first segment that the file imports against the import. What a macro of another crate expands to stays unseen.

use std::collections::HashMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, Meta, UseTree};

/// One mention of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    /// `std::time::Instant`, or `crate::hub::shard` for a name of our own.
    pub(crate) path: String,
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// A single name that is neither imported nor called as a macro: a local variable, a function nearby, a type.
    pub(crate) is_bare: bool,
}

/// A `mod name;` declaration.
pub(crate) struct Child {
    pub(crate) name: String,
    /// It stands under `#[cfg(test)]`.
    pub(crate) is_test: bool,
}

/// Everything `file` mentions; `module` is its own path below the crate, such as `["hub", "channel"]`.
pub(crate) fn mentions(file: &File, module: &[String]) -> Vec<Mention> {
    let mut imports = Imports { module: module.to_vec(), aliases: HashMap::new() };
    imports.visit_file(file);
    let mut names = Names { module: module.to_vec(), aliases: imports.aliases, found: Vec::new() };
    names.visit_file(file);
    names.found
}

/// The modules that `file` declares without a body.
pub(crate) fn children(file: &File) -> Vec<Child> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => Some(module),
        _ => None,
    });
    declared
        .map(|module| Child { name: module.ident.to_string(), is_test: is_test_only(&module.attrs) })
        .collect()
}

/// Whether the attributes say that the item exists in tests only.
fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test,")
        }
        _ => false,
    })
}

/// First pass: which local name stands for which full path.
struct Imports {
    module: Vec<String>,
    aliases: HashMap<String, Vec<String>>,
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test_only(&item.attrs) {
            return;
        }
        for (path, alias, _) in flatten(&item.tree) {
            let full = absolute(&self.module, path);
            // `use std::time;` makes `time` a name; `use crate::x::x;` must not be followed in a circle.
            if full.first() != Some(&alias) {
                self.aliases.insert(alias, full);
            }
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }
}

/// Second pass: every mention.
struct Names {
    module: Vec<String>,
    aliases: HashMap<String, Vec<String>>,
    found: Vec<Mention>,
}

impl Names {
    fn note(&mut self, segments: Vec<String>, line: usize, is_macro: bool) {
        let mut full = absolute(&self.module, segments);
        if let Some(target) = full.first().and_then(|first| self.aliases.get(first)) {
            full.splice(..1, target.iter().cloned());
        }
        let is_bare = full.len() == 1 && !is_macro;
        self.found.push(Mention { path: full.join("::"), line, is_bare });
    }

    /// Reads `a::b::c` sequences out of tokens that syn does not parse.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note_tokens_end(&mut segments, line, false);
                    }
                    line = ident.span().start().line;
                    segments.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    let is_macro = matches!(&other, TokenTree::Punct(punct) if punct.as_char() == '!');
                    self.note_tokens_end(&mut segments, line, is_macro);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.note_tokens(group.stream());
                    }
                }
            }
        }
        self.note_tokens_end(&mut segments, line, false);
    }

    fn note_tokens_end(&mut self, segments: &mut Vec<String>, line: usize, is_macro: bool) {
        if !segments.is_empty() {
            self.note(std::mem::take(segments), line, is_macro);
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for (path, _, line) in flatten(&item.tree) {
            // Imports are written out; an alias of the same name must not be followed.
            let full = absolute(&self.module, path);
            self.found.push(Mention { path: full.join("::"), line, is_bare: false });
        }
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(in crate::hub)` restricts a name and uses none.
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.note(segments, first.ident.span().start().line, false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let segments: Vec<_> = call.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let Some(first) = call.path.segments.first() {
            self.note(segments, first.ident.span().start().line, true);
        }
        self.note_tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        visit::visit_attribute(self, attribute);
        if let Meta::List(list) = &attribute.meta {
            self.note_tokens(list.tokens.clone());
        }
    }
}

/// Resolves `crate`, `self` and `super` against the module.
fn absolute(module: &[String], segments: Vec<String>) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = segments.into_iter().peekable();
    let mut is_own = false;
    while let Some(step) = rest.next_if(|segment| ["crate", "self", "super"].contains(&segment.as_str())) {
        match step.as_str() {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            _ => {}
        }
        is_own = true;
    }
    let own = if is_own { [vec!["crate".to_owned()], base].concat() } else { Vec::new() };
    own.into_iter().chain(rest).collect()
}

/// The leaves of a `use` tree: full path, local name, line.
fn flatten(tree: &UseTree) -> Vec<(Vec<String>, String, usize)> {
    fn walk(tree: &UseTree, prefix: &[String], leaves: &mut Vec<(Vec<String>, String, usize)>) {
        let with = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(&path.ident), leaves),
            UseTree::Group(group) => group.items.iter().for_each(|item| walk(item, prefix, leaves)),
            UseTree::Name(name) if name.ident == "self" => {
                leaves.push((
                    prefix.to_vec(),
                    prefix.last().cloned().unwrap_or_default(),
                    name.ident.span().start().line,
                ));
            }
            UseTree::Name(name) => {
                leaves.push((with(&name.ident), name.ident.to_string(), name.ident.span().start().line));
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { with(&rename.ident) };
                leaves.push((path, rename.rename.to_string(), rename.ident.span().start().line));
            }
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                leaves.push(([prefix, &["*".to_owned()]].concat(), "*".to_owned(), line));
            }
        }
    }
    let mut leaves = Vec::new();
    walk(tree, &[], &mut leaves);
    leaves
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
