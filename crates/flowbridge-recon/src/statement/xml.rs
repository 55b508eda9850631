//! A small tree of an XML file that a stranger wrote: no document type, no entities but XML's own, everything capped.

use super::ReadStatementError;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::borrow::Cow;

const DEPTH_MAX: usize = 40;
const ELEMENTS_MAX: usize = 20_000_000;
const TEXT_BYTES_MAX: usize = 16_384;
const ATTRIBUTES_MAX: usize = 16;

/// An element with all that is in it.
#[derive(Default)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) namespace: String,
    currency: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn all(&self) -> &[Self] {
        &self.children
    }

    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.children.iter().find(|child| child.name == *name))
    }

    /// The text down the path; empty when it is missing.
    pub(super) fn text_at(&self, path: &[&str]) -> &str {
        self.at(path).map_or("", Self::text)
    }

    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    /// The `Ccy` attribute.
    pub(super) fn currency(&self) -> &str {
        &self.currency
    }
}

/// Reads a whole file.
pub(super) fn read(file: &[u8]) -> Result<Element, ReadStatementError> {
    let text = text_of(file)?;
    let text = text.trim_start();
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0;
    loop {
        let event = reader.read_event();
        let line = |reader: &Reader<&[u8]>| {
            let position = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(text.len());
            1 + text.as_bytes()[..position].iter().filter(|byte| **byte == b'\n').count()
        };
        let refuse = |reader: &Reader<&[u8]>, problem: String| {
            Err(ReadStatementError::Malformed { line: line(reader), problem })
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => return refuse(&reader, error.to_string()),
        };
        let mut closed = None;
        match event {
            Event::Start(start) | Event::Empty(start)
                if open.len() >= DEPTH_MAX || elements >= ELEMENTS_MAX =>
            {
                let name = start.local_name();
                let name: &str = name.as_ref();
                return refuse(&reader, format!("too deep or too many elements at {name}"));
            }
            Event::Start(start) => {
                elements += 1;
                match element(&start) {
                    Ok(element) => open.push(element),
                    Err(problem) => return refuse(&reader, problem),
                }
            }
            Event::Empty(start) => {
                elements += 1;
                match element(&start) {
                    Ok(element) => closed = Some(element),
                    Err(problem) => return refuse(&reader, problem),
                }
            }
            Event::End(_) => closed = open.pop(),
            Event::Text(found) => {
                if let Err(problem) = add_text(&mut open, &found.xml10_content()) {
                    return refuse(&reader, problem);
                }
            }
            Event::CData(found) => {
                if let Err(problem) = add_text(&mut open, &found.xml10_content()) {
                    return refuse(&reader, problem);
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content().into_owned();
                let character = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character.to_string()),
                    Ok(None) => quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned),
                    Err(_) => None,
                };
                let added = character
                    .ok_or_else(|| format!("the entity {name:?} is not defined"))
                    .and_then(|character| add_text(&mut open, &character));
                if let Err(problem) = added {
                    return refuse(&reader, problem);
                }
            }
            Event::DocType(_) => {
                return refuse(&reader, "a document type declaration is not accepted".into());
            }
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return refuse(&reader, "the file ends too early".into()),
        }
        if let Some(element) = closed {
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => return Ok(element),
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

fn element(start: &BytesStart<'_>) -> Result<Element, String> {
    let local_name = start.local_name();
    let name: &str = local_name.as_ref();
    let mut element = Element { name: name.to_owned(), ..Element::default() };
    for (count, attribute) in start.attributes().enumerate() {
        if count >= ATTRIBUTES_MAX {
            return Err("too many attributes".into());
        }
        let attribute = attribute.map_err(|error| error.to_string())?;
        let key: &str = attribute.key.as_ref();
        if key == "Ccy" {
            element.currency = attribute.value.chars().take(8).collect();
        }
        if key == "xmlns" || key.starts_with("xmlns:") && attribute.value.contains("camt.") {
            element.namespace = attribute.value.chars().take(200).collect();
        }
    }
    Ok(element)
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), String> {
    if let Some(element) = open.last_mut() {
        if element.text.len() + text.len() > TEXT_BYTES_MAX {
            return Err("too much text in one element".into());
        }
        element.text.push_str(text);
    }
    Ok(())
}
