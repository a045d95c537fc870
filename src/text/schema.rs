//! JSON schemas on their way to `llguidance`: what would cost too much is refused, what it takes too lightly is said more
//! strictly. It knows keywords, not values.

use super::grammar::GrammarError;
use serde_json::{Value as Json, json};

/// Most remainders that numbers may have to be told apart by; each may become a state.
const REMAINDERS_MAX: u64 = 100_000;

/// Whitespace between the parts of JSON: what models write and formatters make, without room to write nothing else.
const JSON_SPACE: &str = r"[\x20]{1,2}|\r?\n[\x20\t]{0,64}";

/// A date that there is: no 30th of February, and its 29th in leap years only.
const DATE: &str = "(?:[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|\
                    (?:0[13578]|1[02])-31)|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|\
                    (?:[02468][048]|[13579][26])00)-02-29)";

/// A time without leap seconds, which few readers take.
const TIME: &str = "[0-9]{2}:[0-9]{2}:[0-5][0-9]";

/// The parts of a host's name, of a length that name servers take.
const LABELS: &str = "(?:[^@.]{1,63}\\.)*[^@.]{1,63}";

/// Keywords whose value is a schema, or an array of schemas.
const SCHEMAS: [&str; 7] =
    ["items", "additionalItems", "additionalProperties", "prefixItems", "anyOf", "oneOf", "allOf"];
/// Keywords whose value maps names to schemas.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// The schema as the compiler is given it.
///
/// # Errors
/// A schema that is no object, or whose numbers cannot be told apart in reasonable time.
pub(crate) fn prepare(schema: &Json) -> Result<Json, GrammarError> {
    let mut schema = match schema {
        Json::Bool(true) => json!({}),
        other => other.clone(),
    };
    if !schema.is_object() {
        return Err(GrammarError("the schema must be an object".to_owned()));
    }
    if schema.get("x-guidance").is_some() {
        return Err(GrammarError("the schema's `x-guidance` is not supported; leave it out".to_owned()));
    }
    let mut remainders = 1;
    tighten(&mut schema, &mut remainders)?;
    schema["x-guidance"] = json!({"whitespace_pattern": JSON_SPACE});
    Ok(schema)
}

/// Walks all schemas within `schema`. `remainders` is what numbers of all that were seen must be divided by together, since
/// one number may have to satisfy several.
fn tighten(schema: &mut Json, remainders: &mut u64) -> Result<(), GrammarError> {
    let Some(map) = schema.as_object_mut() else { return Ok(()) };
    for keyword in SCHEMAS {
        match map.get_mut(keyword) {
            Some(Json::Array(items)) => items.iter_mut().try_for_each(|item| tighten(item, remainders))?,
            Some(inner) => tighten(inner, remainders)?,
            None => {}
        }
    }
    for keyword in MAPS {
        let inner = map.get_mut(keyword).and_then(Json::as_object_mut);
        inner.into_iter().flatten().try_for_each(|(_, inner)| tighten(inner, remainders))?;
    }
    // Of constants that differ, one at most fits.
    if let Some(options) = map.get("oneOf").and_then(Json::as_array)
        && !map.contains_key("anyOf")
        && differ(options)
    {
        let options = map.remove("oneOf").unwrap_or_default();
        map.insert("anyOf".into(), options);
    }
    if let Some(divisor) = map.get("multipleOf").filter(|divisor| divisor.is_number()) {
        let text = divisor.to_string();
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let digits = digits.trim_matches('0').parse::<u64>().unwrap_or(1).max(1);
        // Trailing zeros count where they are not behind the point.
        let zeros = if text.contains('.') { 0 } else { text.len() - text.trim_end_matches('0').len() };
        let number = 10u64.checked_pow(zeros as u32).and_then(|power| power.checked_mul(digits));
        let together = number.and_then(|number| (number / gcd(number, *remainders)).checked_mul(*remainders));
        *remainders =
            together.filter(|together| *together <= REMAINDERS_MAX && !text.contains(['e', 'E'])).ok_or_else(|| {
                GrammarError(format!(
                    "`multipleOf` {text} is, with the others, too large: {REMAINDERS_MAX} is the most"
                ))
            })?;
    }
    let also = match map.get("format").and_then(Json::as_str) {
        Some("date") => json!({"pattern": format!("^{DATE}$")}),
        Some("time") => json!({"pattern": format!("^{TIME}")}),
        Some("date-time") => json!({"pattern": format!("^{DATE}[tT]{TIME}")}),
        Some("email") => json!({"pattern": format!("^[^@]{{1,64}}@{LABELS}$"), "maxLength": 254}),
        Some("hostname") => json!({"pattern": format!("^{LABELS}$"), "maxLength": 253}),
        _ => return Ok(()),
    };
    match map.entry("allOf").or_insert_with(|| json!([])) {
        Json::Array(all) => all.push(also),
        _ => return Err(GrammarError("`allOf` must be an array".to_owned())),
    }
    Ok(())
}

/// Whether all options are constants, and no two equal.
fn differ(options: &[Json]) -> bool {
    let constants: Option<Vec<&Json>> = options.iter().map(|option| option.get("const")).collect();
    let plain = |value: &&Json| value.is_string() || value.is_i64() || value.is_boolean() || value.is_null();
    constants.is_some_and(|constants| {
        constants.iter().all(plain) && (1..constants.len()).all(|index| !constants[..index].contains(&constants[index]))
    })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
