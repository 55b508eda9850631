//! A small tree of an XML file that a stranger wrote: no document type, no entities but XML's own, everything capped.
//!
//! The tree is a list. An element takes sixteen bytes beside its text, so that no file takes more memory than a small
//! multiple of its size, whatever it is made of.

use super::ReadStatementError;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::borrow::Cow;
use std::collections::BTreeMap;

const DEPTH_MAX: usize = 40;
const ELEMENTS_MAX: usize = 20_000_000;
const TEXT_BYTES_MAX: usize = 16_384;
const ATTRIBUTES_MAX: usize = 16;
/// Most different names, namespaces and currencies of one file. All versions of camt together have fewer names.
const WORDS_MAX: u16 = 8_192;

/// A file that was read: its elements in the order in which they open, the root first.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    words: Words,
    /// Of all elements, one after another.
    texts: String,
}

struct Node {
    /// This and the next two are places in the tree's words.
    name: u16,
    namespace: u16,
    currency: u16,
    text_bytes: u16,
    text_begin: u32,
    /// Where the first element stands that is not in this one any more.
    end: u32,
}

/// What elements are called, each word once.
#[derive(Default)]
struct Words {
    list: Vec<Box<str>>,
    places: BTreeMap<Box<str>, u16>,
}

impl Words {
    fn place(&mut self, word: &str) -> Result<u16, String> {
        if let Some(place) = self.places.get(word) {
            return Ok(*place);
        }
        let place = u16::try_from(self.list.len())
            .ok()
            .filter(|place| *place < WORDS_MAX)
            .ok_or_else(|| format!("more than {WORDS_MAX} different names"))?;
        self.list.push(word.into());
        self.places.insert(word.into(), place);
        Ok(place)
    }
}

impl Tree {
    pub(super) fn root(&self) -> Element<'_> {
        Element { tree: self, place: 0 }
    }

    /// How many elements have this name, at any depth.
    pub(super) fn count(&self, name: &str) -> usize {
        let Some(place) = self.words.places.get(name) else { return 0 };
        self.nodes.iter().filter(|node| node.name == *place).count()
    }
}

/// An element with all that is in it.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    tree: &'a Tree,
    place: usize,
}

impl<'a> Element<'a> {
    fn node(self) -> &'a Node {
        &self.tree.nodes[self.place]
    }

    fn word(self, place: u16) -> &'a str {
        &self.tree.words.list[usize::from(place)]
    }

    pub(super) fn name(self) -> &'a str {
        self.word(self.node().name)
    }

    /// What it declares itself; empty when it declares nothing.
    pub(super) fn namespace(self) -> &'a str {
        self.word(self.node().namespace)
    }

    /// The `Ccy` attribute.
    pub(super) fn currency(self) -> &'a str {
        self.word(self.node().currency)
    }

    pub(super) fn all(self) -> impl Iterator<Item = Self> {
        let end = self.node().end as usize;
        let mut next = self.place + 1;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = Element { tree: self.tree, place: next };
            next = child.node().end as usize;
            Some(child)
        })
    }

    pub(super) fn children(self, name: &str) -> impl Iterator<Item = Self> {
        self.all().filter(move |child| child.name() == name)
    }

    pub(super) fn at(self, path: &[&str]) -> Option<Self> {
        path.iter().try_fold(self, |element, name| element.all().find(|child| child.name() == *name))
    }

    /// The text down the path; empty when it is missing.
    pub(super) fn text_at(self, path: &[&str]) -> &'a str {
        self.at(path).map_or("", Self::text)
    }

    pub(super) fn text(self) -> &'a str {
        let begin = self.node().text_begin as usize;
        &self.tree.texts[begin..begin + usize::from(self.node().text_bytes)]
    }
}

/// A tree while its file is read.
#[derive(Default)]
struct Growing {
    tree: Tree,
    /// Where the elements stand that have not ended, and their texts.
    open: Vec<(usize, String)>,
}

impl Growing {
    fn begin(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        let local_name = start.local_name();
        let name: &str = local_name.as_ref();
        if self.open.len() >= DEPTH_MAX || self.tree.nodes.len() >= ELEMENTS_MAX {
            return Err(format!("too deep or too many elements at {name}"));
        }
        let (mut namespace, mut currency) = (String::new(), String::new());
        for (count, attribute) in start.attributes().enumerate() {
            if count >= ATTRIBUTES_MAX {
                return Err("too many attributes".into());
            }
            let attribute = attribute.map_err(|error| error.to_string())?;
            let key: &str = attribute.key.as_ref();
            if key == "Ccy" {
                currency = attribute.value.chars().take(8).collect();
            }
            if key == "xmlns" || key.starts_with("xmlns:") && attribute.value.contains("camt.") {
                namespace = attribute.value.chars().take(200).collect();
            }
        }
        let words = &mut self.tree.words;
        let node = Node {
            name: words.place(name)?,
            namespace: words.place(&namespace)?,
            currency: words.place(&currency)?,
            text_bytes: 0,
            text_begin: 0,
            end: 0,
        };
        self.open.push((self.tree.nodes.len(), String::new()));
        self.tree.nodes.push(node);
        Ok(())
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        let Some((_, known)) = self.open.last_mut() else { return Ok(()) };
        // What only sets the next element off is not text, however many elements there are.
        if known.is_empty() && text.trim().is_empty() {
            return Ok(());
        }
        if known.len() + text.len() > TEXT_BYTES_MAX {
            return Err("too much text in one element".into());
        }
        known.push_str(text);
        Ok(())
    }

    /// Ends the element that was opened last. Was it the root?
    fn end(&mut self) -> Result<bool, String> {
        let Some((place, text)) = self.open.pop() else { return Ok(false) };
        let text = text.trim();
        let too_much = |_| "the file has too much text".to_owned();
        let node = &mut self.tree.nodes[place];
        node.text_begin = u32::try_from(self.tree.texts.len()).map_err(too_much)?;
        node.text_bytes = u16::try_from(text.len()).map_err(too_much)?;
        self.tree.texts.push_str(text);
        let end = u32::try_from(self.tree.nodes.len()).map_err(too_much)?;
        self.tree.nodes[place].end = end;
        Ok(self.open.is_empty())
    }

    /// What one event adds. Is the root whole now?
    fn take(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::Start(start) => self.begin(&start)?,
            Event::Empty(start) => {
                self.begin(&start)?;
                return self.end();
            }
            Event::End(_) => return self.end(),
            Event::Text(found) => self.add_text(&found.xml10_content())?,
            Event::CData(found) => self.add_text(&found.xml10_content())?,
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content().into_owned();
                let character = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character.to_string()),
                    Ok(None) => quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned),
                    Err(_) => None,
                };
                let character = character.ok_or_else(|| format!("the entity {name:?} is not defined"))?;
                self.add_text(&character)?;
            }
            Event::DocType(_) => return Err("a document type declaration is not accepted".into()),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return Err("the file ends too early".into()),
        }
        Ok(false)
    }
}

/// After the root there is nothing but blanks, comments and instructions. Is the file at its end?
fn is_over(event: &Event<'_>) -> Result<bool, String> {
    match event {
        Event::Eof => Ok(true),
        Event::Comment(_) | Event::PI(_) => Ok(false),
        Event::Text(found) if found.xml10_content().trim().is_empty() => Ok(false),
        Event::Start(_)
        | Event::Empty(_)
        | Event::End(_)
        | Event::Text(_)
        | Event::CData(_)
        | Event::GeneralRef(_)
        | Event::DocType(_)
        | Event::Decl(_) => Err("something follows the document: one file has one document".into()),
    }
}

/// Reads a whole file.
pub(super) fn read(file: &[u8]) -> Result<Tree, ReadStatementError> {
    let text = text_of(file)?;
    let text = text.trim_start();
    let mut reader = Reader::from_str(text);
    let mut growing = Growing::default();
    let mut is_whole = false;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string());
        let taken = event.and_then(|event| {
            if is_whole {
                return is_over(&event);
            }
            is_whole = growing.take(event)?;
            Ok(false)
        });
        match taken {
            Ok(true) => return Ok(growing.tree),
            Ok(false) => {}
            Err(problem) => {
                let position = usize::try_from(reader.buffer_position()).unwrap_or(text.len());
                let line = 1 + text.bytes().take(position).filter(|byte| *byte == b'\n').count();
                return Err(ReadStatementError::Malformed { line, problem });
            }
        }
    }
}

/// The file's text: in Unicode, or in what its declaration says where that is an alphabet of one byte a letter.
fn text_of(file: &[u8]) -> Result<Cow<'_, str>, ReadStatementError> {
    if let Ok(text) = std::str::from_utf8(file) {
        return Ok(Cow::Borrowed(text.trim_start_matches('\u{feff}')));
    }
    if let Some(text) = super::unicode(file) {
        return Ok(Cow::Owned(text));
    }
    let head = super::windows_1252(&file[..file.len().min(200)]).to_lowercase();
    let declared =
        head.split_once("?>").and_then(|(head, _)| head.split_once("encoding=")).map(|(_, rest)| rest);
    let is_latin = declared.is_some_and(|name| {
        let name = name.trim_start_matches(['"', '\'']);
        ["iso-8859-1", "iso-8859-15", "windows-1252", "latin1", "us-ascii"]
            .iter()
            .any(|known| name.starts_with(known))
    });
    if is_latin {
        return Ok(Cow::Owned(super::windows_1252(file)));
    }
    let problem = "the file is in none of UTF-8, UTF-16 and a declared Latin encoding".to_owned();
    Err(ReadStatementError::Malformed { line: 0, problem })
}
