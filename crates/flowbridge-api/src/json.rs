//! Reading JSON strictly.
//!
//! Two members of one name, members that we do not know, numbers with a fraction where a whole one belongs, nesting
//! deeper than any request of ours, and more values than any has are refused: a body of some megabytes never takes a hundred times its
//! size. A [`Reader`] collects the faults of a body, up to a number that a person reads, before anything is decided.

use crate::problem::Fault;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::{Cell, RefCell};
use std::fmt;

/// No request of ours nests deeper.
const DEPTH_MAX: usize = 16;
/// No request of ours has more values: the largest are ten thousand payments.
pub const VALUES_MAX: usize = 1_000_000;
/// Faults of one object that are told.
const FAULTS_MAX: usize = 20;

/// Parses a body; an object or array nested too deeply and a doubled member are faults. A fault is told with the innermost
/// member that it is in.
pub fn parse(body: &[u8]) -> Result<Value, Fault> {
    parse_within(body, &Cell::new(VALUES_MAX))
}

/// The same for one of several bodies, which together may have the values that are `left`.
pub fn parse_within(body: &[u8], left: &Cell<usize>) -> Result<Value, Fault> {
    parse_bounded(body, left, usize::MAX)
}

/// The same for a body that is a list of so many items at most: nothing is read after the first that is too many.
pub fn parse_list(body: &[u8], items_max: usize) -> Result<Value, Fault> {
    parse_bounded(body, &Cell::new(VALUES_MAX), items_max)
}

fn parse_bounded(body: &[u8], left: &Cell<usize>, items_max: usize) -> Result<Value, Fault> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let fault = RefCell::new(Place { code: "malformed_json", pointer: String::new() });
    let value = Strict { depth: 0, items_max, left, fault: &fault }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        let Place { code, pointer } = fault.into_inner();
        Fault::new(&pointer, code, error.to_string())
    })
}

/// Where a fault is and which. The pointer is put together while the error travels up, so a sound body costs nothing.
struct Place {
    code: &'static str,
    pointer: String,
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    /// Items of the body, if that is a list.
    items_max: usize,
    /// Values that may still come.
    left: &'a Cell<usize>,
    fault: &'a RefCell<Place>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            self.fault.borrow_mut().code = "too_many_values";
            return Err(D::Error::custom(format_args!("more than {VALUES_MAX} values: send it in parts")));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    /// Kept so that the fault can say where it is; no amount is ever read from it.
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) =
            items.next_element_seed(inner).inspect_err(|_| self.is_within(&values.len().to_string()))?
        {
            if self.depth == 0 && values.len() >= self.items_max {
                self.fault.borrow_mut().code = "not_valid";
                let items_max = self.items_max;
                return Err(A::Error::custom(format_args!("more than {items_max} items: send it in parts")));
            }
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                self.fault.borrow_mut().code = "duplicate_member";
                self.is_within(&name);
                return Err(A::Error::custom(format_args!("the member {name:?} is there twice")));
            }
            let value = members.next_value_seed(inner).inspect_err(|_| self.is_within(&name))?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            self.fault.borrow_mut().code = "nested_too_deeply";
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn is_within(self, name: &str) {
        let pointer = &mut self.fault.borrow_mut().pointer;
        *pointer = format!("/{}{pointer}", escaped(name));
    }
}

/// A name as RFC 6901 writes it.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads the members of an object and collects what is wrong with them.
#[derive(Debug)]
pub struct Reader<'a> {
    object: Option<&'a Map<String, Value>>,
    pointer: String,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// A reader of the whole body.
    pub fn new(value: &'a Value) -> Self {
        Self::at(value, String::new())
    }

    fn at(value: &'a Value, pointer: String) -> Self {
        let object = value.as_object();
        let faults = match object {
            Some(_) => vec![],
            None => vec![Fault::new(&pointer, "wrong_type", "an object is expected")],
        };
        Self { object, pointer, known: Vec::new(), faults }
    }

    /// The member as it is; absent and null are the same.
    pub fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.object?.get(name).filter(|value| !value.is_null())
    }

    /// A text that `parse` understands.
    pub fn text<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.value(name)?;
        let Some(text) = value.as_str() else {
            self.fault(name, "wrong_type", "a string is expected");
            return None;
        };
        parse(text).map_err(|error| self.fault(name, "not_valid", error.to_string())).ok()
    }

    /// A whole number.
    pub fn integer(&mut self, name: &'static str) -> Option<i64> {
        let value = self.value(name)?;
        let number = value.as_i64();
        if number.is_none() {
            self.fault(name, "wrong_type", "a whole number within 64 bits is expected");
        }
        number
    }

    /// An array of texts.
    pub fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let value = self.value(name)?;
        let Some(items) = value.as_array() else {
            self.fault(name, "wrong_type", "an array of strings is expected");
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let pointer = format!("{}/{place}", self.pointer_to(name));
                    self.faults.push(Fault::new(&pointer, "wrong_type", "a string is expected"));
                }
            }
        }
        Some(texts)
    }

    /// An object, read by `read`.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(name)?;
        let mut inner = Reader::at(value, self.pointer_to(name));
        let read = read(&mut inner);
        self.faults.extend(inner.finish());
        read
    }

    /// An array of objects, each read by `read`.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&mut Reader<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(name)?;
        let Some(items) = value.as_array() else {
            self.fault(name, "wrong_type", "an array of objects is expected");
            return None;
        };
        let mut objects = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            let mut inner = Reader::at(item, format!("{}/{place}", self.pointer_to(name)));
            objects.extend(read(&mut inner));
            self.faults.extend(inner.finish());
        }
        Some(objects)
    }

    /// Says that a member has to be there, if it is not and nothing else is wrong with it.
    pub fn require<T>(&mut self, name: &'static str, value: Option<T>) -> Option<T> {
        let pointer = self.pointer_to(name);
        let is_reported = self.faults.iter().any(|fault| fault.pointer.starts_with(&pointer));
        if value.is_none() && !is_reported && self.object.is_some() {
            self.fault(name, "missing", "this member is required");
        }
        value
    }

    /// Adds a fault of a member.
    pub fn fault(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        let fault = Fault::new(&self.pointer_to(name), code, detail);
        self.faults.push(fault);
    }

    /// The faults, those of unknown members included; of many the first.
    pub fn finish(mut self) -> Vec<Fault> {
        let unknown =
            self.object.into_iter().flat_map(Map::keys).filter(|name| !self.known.contains(&name.as_str()));
        let unknown: Vec<Fault> = unknown
            .take(FAULTS_MAX)
            .map(|name| Fault::new(&self.pointer_to(name), "unknown_member", "there is no such member"))
            .collect();
        self.faults.extend(unknown);
        self.faults.truncate(FAULTS_MAX);
        self.faults
    }

    fn pointer_to(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, escaped(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_members_deep_nesting_and_trailing_text_are_refused_where_they_are() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        for (body, code, pointer, says) in [
            (r#"{"a":1,"a":2}"#, "duplicate_member", "/a", "there twice"),
            (r#"{"m":[{},{"x~/y":1,"x~/y":2}]}"#, "duplicate_member", "/m/1/x~0~1y", "there twice"),
            (&deep, "nested_too_deeply", &format!("/a{}", "/0".repeat(15)), "nested deeper"),
            ("{} {}", "malformed_json", "", "trailing"),
            (r#"{"a":{"b":nul}}"#, "malformed_json", "/a/b", "expected"),
            (r#"{"a":[1,2"#, "malformed_json", "/a/2", "EOF"),
            ("{", "malformed_json", "", "EOF"),
            ("", "malformed_json", "", "EOF"),
        ] {
            let fault = parse(body.as_bytes()).unwrap_err();
            assert_eq!((fault.code, fault.pointer.as_str()), (code, pointer), "{body}");
            assert!(fault.detail.contains(says), "{body}: {}", fault.detail);
        }
    }

    #[test]
    fn a_body_has_so_many_values_and_an_object_tells_so_many_faults() {
        let left = Cell::new(5);
        assert_eq!(parse_within(br#"{"a":[1,2]}"#, &left), Ok(serde_json::json!({ "a": [1, 2] })));
        assert_eq!(left.get(), 1, "an object, an array and two numbers");
        let fault = parse_within(br#"{"a":1}"#, &left).unwrap_err();
        assert_eq!((fault.code, &*fault.pointer), ("too_many_values", "/a"));

        let unknown: Map<String, Value> = (0..1_000).map(|name| (name.to_string(), Value::Null)).collect();
        assert_eq!(Reader::new(&unknown.into()).finish().len(), FAULTS_MAX);
    }

    #[test]
    fn a_list_is_read_no_further_than_to_the_first_item_that_is_too_many() {
        assert_eq!(parse_list(b"[[1,2,3],2]", 2), Ok(serde_json::json!([[1, 2, 3], 2])));
        let fault = parse_list(b"[1,2,3,what nobody reads", 2).unwrap_err();
        assert_eq!((fault.code, &*fault.pointer), ("not_valid", ""));
        assert!(fault.detail.contains("more than 2 items"), "{}", fault.detail);
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let body =
            parse(br#"{"amount":{"amount":1.5,"x~/y":1},"name":7,"kinds":["a",null],"more":{}}"#).unwrap();
        let mut reader = Reader::new(&body);
        let amount = reader.object("amount", |amount| {
            let units = amount.integer("amount");
            amount.require("currency", None::<()>);
            units
        });
        reader.require("amount", amount);
        let name = reader.text("name", |text| Ok::<_, String>(text.to_owned()));
        reader.require("name", name);
        assert_eq!((reader.texts("kinds"), reader.texts("more")), (Some(vec!["a".to_owned()]), None));
        let places: Vec<_> =
            reader.finish().into_iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect();
        assert_eq!(
            places,
            [
                "/amount/amount wrong_type",
                "/amount/currency missing",
                "/amount/x~0~1y unknown_member",
                "/name wrong_type",
                "/kinds/1 wrong_type",
                "/more wrong_type"
            ]
        );
    }
}
