//! Reading XML that a stranger wrote.
//!
//! No document type, no entity but the five of XML itself, UTF-8 only, and a limit on everything: the file, the depth, the
//! attributes of an element, the text in it, and the elements of one part. What is outside the message's own namespace is
//! skipped. The file is read as it lies in memory; only one part at a time becomes a tree.

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use std::fmt;

/// Largest accepted file.
pub(super) const FILE_BYTES_MAX: usize = 32 << 20;
const DEPTH_MAX: usize = 32;
const ATTRIBUTES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 8_192;
const ELEMENTS_PER_PART_MAX: usize = 2_000;

/// Why a file as a whole cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ReadFileError {
    /// Where reading ended, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: FileProblem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// Split it.
    #[error("the file is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Convert it.
    #[error("the file is not in UTF-8")]
    NotUtf8,
    /// Not XML.
    #[error("not well-formed XML: {0}")]
    Malformed(String),
    /// Remove it: document types are a way to attack a reader.
    #[error("a document type declaration is not accepted")]
    DocumentType,
    /// Only `&lt;`, `&gt;`, `&amp;`, `&quot;`, `&apos;` and characters by number exist here.
    #[error("the entity {0:?} is not defined")]
    Entity(String),
    /// A limit against files made to exhaust a reader.
    #[error("more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        max: usize,
    },
    /// Another kind of message, or a version that is not spoken here.
    #[error("{0}")]
    NotThisMessage(String),
    /// An element without which the message says nothing.
    #[error("{0} is missing or not readable")]
    Missing(&'static str),
}

/// An element of the message with all that is in it.
#[derive(Clone, Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element down the path, by first children.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text down the path; none when it is missing or blank.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(Self::text).filter(|text| !text.is_empty())
    }

    /// Its own text without blanks around it.
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn push(&mut self, child: Self) {
        self.children.push(child);
    }
}

/// Without its content, which is about people.
impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Element").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What comes next in the message's own namespace.
pub(super) enum Token {
    /// An element begins; its content comes next.
    Start(Element),
    /// The element that began last ends.
    End,
    Text(String),
    /// The file ends.
    Eof,
}

/// A reader that goes through one file.
pub(super) struct XmlReader<'i> {
    file: &'i str,
    reader: NsReader<&'i [u8]>,
    namespace: Option<String>,
    depth: usize,
    /// An empty element (`<a/>`) was given as a start: its end is due.
    end_due: bool,
}

impl<'i> XmlReader<'i> {
    pub(super) fn new(file: &'i [u8]) -> Result<Self, ReadFileError> {
        let at_start = |problem| ReadFileError { line: 1, problem };
        if file.len() > FILE_BYTES_MAX {
            return Err(at_start(FileProblem::TooLarge));
        }
        let file = std::str::from_utf8(file).map_err(|_| at_start(FileProblem::NotUtf8))?;
        let file = file.strip_prefix('\u{feff}').unwrap_or(file);
        Ok(Self { file, reader: NsReader::from_str(file), namespace: None, depth: 0, end_due: false })
    }

    /// `problem`, at the place where reading stands.
    pub(super) fn error(&self, problem: FileProblem) -> ReadFileError {
        let position = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX);
        let read = self.file.as_bytes().get(..position.min(self.file.len())).unwrap_or_default();
        ReadFileError { line: 1 + read.iter().filter(|byte| **byte == b'\n').count(), problem }
    }

    /// The root element's name and namespace. From here on that namespace is the message's own.
    pub(super) fn root(&mut self) -> Result<(String, String), ReadFileError> {
        match self.next_markup()? {
            Token::Start(root) => Ok((root.name, self.namespace.clone().unwrap_or_default())),
            Token::End | Token::Text(_) | Token::Eof => {
                Err(self.error(FileProblem::Missing("the root element")))
            }
        }
    }

    /// The next start or end, or the end of the file.
    pub(super) fn next_markup(&mut self) -> Result<Token, ReadFileError> {
        loop {
            match self.next()? {
                Token::Text(_) => {}
                markup @ (Token::Start(_) | Token::End | Token::Eof) => return Ok(markup),
            }
        }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token, ReadFileError> {
        if std::mem::take(&mut self.end_due) {
            return self.end();
        }
        loop {
            let (namespace, event) = match self.reader.read_resolved_event() {
                Ok((ResolveResult::Bound(Namespace(namespace)), event)) => {
                    (Some(namespace.to_owned()), event)
                }
                Ok((ResolveResult::Unbound | ResolveResult::Unknown(_), event)) => (None, event),
                Err(error) => return Err(self.error(FileProblem::Malformed(error.to_string()))),
            };
            match event {
                Event::Start(start) => {
                    if self.is_own(namespace) {
                        return self.start(&start);
                    }
                    self.skip_foreign()?;
                }
                Event::Empty(start) => {
                    if self.is_own(namespace) {
                        self.end_due = true;
                        return self.start(&start);
                    }
                }
                Event::End(_) => return self.end(),
                Event::Text(text) => {
                    return self.text(&text.xml10_content()).map(Token::Text);
                }
                Event::CData(text) => return self.text(&text.xml10_content()).map(Token::Text),
                Event::GeneralRef(reference) => {
                    let name = reference.xml10_content().into_owned();
                    let character = match reference.resolve_char_ref() {
                        Ok(Some(character)) => Some(character.to_string()),
                        Ok(None) => quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned),
                        Err(_) => None,
                    };
                    let Some(character) = character else {
                        return Err(self.error(FileProblem::Entity(name)));
                    };
                    return self.text(&character).map(Token::Text);
                }
                Event::Decl(declaration) => {
                    let utf8 = declaration
                        .encoding()
                        .is_none_or(|encoding| encoding.is_ok_and(|name| name.eq_ignore_ascii_case("utf-8")));
                    if !utf8 {
                        return Err(self.error(FileProblem::NotUtf8));
                    }
                }
                Event::DocType(_) => return Err(self.error(FileProblem::DocumentType)),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof if self.depth > 0 => {
                    return Err(self.error(FileProblem::Malformed("the file ends within an element".into())));
                }
                Event::Eof => return Ok(Token::Eof),
            }
        }
    }

    /// The rest of an element whose start was read, as a tree.
    pub(super) fn finish(&mut self, start: Element) -> Result<Element, ReadFileError> {
        let mut open = vec![start];
        let mut elements = 1;
        loop {
            match self.next()? {
                Token::Start(element) => {
                    elements += 1;
                    if elements > ELEMENTS_PER_PART_MAX {
                        return Err(self.too_many("elements in one part", ELEMENTS_PER_PART_MAX));
                    }
                    open.push(element);
                }
                Token::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        if element.text.len().saturating_add(text.len()) > TEXT_BYTES_MAX {
                            return Err(self.too_many("bytes of text in one element", TEXT_BYTES_MAX));
                        }
                        element.text.push_str(&text);
                    }
                }
                Token::End => match (open.pop(), open.last_mut()) {
                    (Some(element), Some(parent)) => {
                        // An element has text or elements; what stands between elements is layout.
                        parent.text.clear();
                        parent.push(element);
                    }
                    (Some(element), None) => return Ok(element),
                    (None, _) => {
                        return Err(self.error(FileProblem::Malformed("an end without a start".into())));
                    }
                },
                Token::Eof => {
                    return Err(self.error(FileProblem::Malformed("the file ends too early".into())));
                }
            }
        }
    }

    /// Passes over the rest of an element whose start was read, however long it is.
    pub(super) fn skip(&mut self) -> Result<(), ReadFileError> {
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            if let Token::Eof = self.next()? {
                return Err(self.error(FileProblem::Malformed("the file ends too early".into())));
            }
        }
        Ok(())
    }

    fn is_own(&mut self, namespace: Option<String>) -> bool {
        if self.namespace.is_none() {
            self.namespace = Some(namespace.unwrap_or_default());
            return true;
        }
        namespace.is_some() && namespace == self.namespace
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<Token, ReadFileError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.too_many("levels of elements", DEPTH_MAX));
        }
        let local_name = start.local_name();
        let name: &str = local_name.as_ref();
        if name.len() > NAME_BYTES_MAX {
            return Err(self.too_many("bytes in a name", NAME_BYTES_MAX));
        }
        let mut element = Element { name: name.to_owned(), ..Element::default() };
        for (count, attribute) in start.attributes().enumerate() {
            if count >= ATTRIBUTES_MAX {
                return Err(self.too_many("attributes of one element", ATTRIBUTES_MAX));
            }
            let attribute =
                attribute.map_err(|error| self.error(FileProblem::Malformed(error.to_string())))?;
            let key: &str = attribute.key.as_ref();
            if key.len().max(attribute.value.len()) > TEXT_BYTES_MAX {
                return Err(self.too_many("bytes in an attribute", TEXT_BYTES_MAX));
            }
            element.attributes.push((key.to_owned(), attribute.value.into_owned()));
        }
        Ok(Token::Start(element))
    }

    fn end(&mut self) -> Result<Token, ReadFileError> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| self.error(FileProblem::Malformed("an end without a start".into())))?;
        Ok(Token::End)
    }

    /// Text as XML 1.0 allows it: no control characters but tab and line ends.
    fn text(&self, text: &str) -> Result<String, ReadFileError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(self.too_many("bytes of text in one element", TEXT_BYTES_MAX));
        }
        let forbidden = |c: char| c < ' ' && !matches!(c, '\t' | '\n' | '\r');
        if text.chars().any(forbidden) {
            return Err(self.error(FileProblem::Malformed("a control character".into())));
        }
        Ok(text.to_owned())
    }

    /// Passes over an element of another namespace, with all that is in it.
    fn skip_foreign(&mut self) -> Result<(), ReadFileError> {
        let mut inside = 1_usize;
        while inside > 0 {
            let event = self.reader.read_event();
            match event.map_err(|error| self.error(FileProblem::Malformed(error.to_string())))? {
                Event::Start(_) => inside += 1,
                Event::End(_) => inside -= 1,
                Event::DocType(_) => return Err(self.error(FileProblem::DocumentType)),
                Event::Eof => {
                    return Err(self.error(FileProblem::Malformed("the file ends too early".into())));
                }
                Event::Empty(_)
                | Event::Text(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::GeneralRef(_) => {}
            }
            if self.depth.saturating_add(inside) > DEPTH_MAX {
                return Err(self.too_many("levels of elements", DEPTH_MAX));
            }
        }
        Ok(())
    }

    fn too_many(&self, what: &'static str, max: usize) -> ReadFileError {
        self.error(FileProblem::TooMany { what, max })
    }
}
