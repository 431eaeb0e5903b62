//! Decodes records for scans of many: a value stays in its row, and isn't copied.

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::record;
use crate::store::StoreError;

/// Tag of a record's value.
const VALUE_TAG: u32 = 15;

/// Decodes a row's record without its value, which is returned as a part of the row.
pub(super) fn decode_without_value(row: &[u8]) -> Result<(pb::Record, &[u8]), StoreError> {
    let fields = find_value(row).map_err(StoreError::on("decode", "record"))?;
    match fields {
        Some([before, value, after]) => {
            let record = record::decode(Bytes::from([before, after].concat()))?;
            Ok((record, value))
        }
        None => Ok((record::decode(Bytes::copy_from_slice(row))?, &[])),
    }
}

/// Finds the value in a row: the fields before it, the value, and the fields after it; `None` if
/// there is none, or the row is cut short.
fn find_value(row: &[u8]) -> Result<Option<[&[u8]; 3]>, DecodeError> {
    let mut rest = row;
    while !rest.is_empty() {
        let before = &row[..row.len() - rest.len()];
        let (tag, wire_type) = decode_key(&mut rest)?;
        if tag == VALUE_TAG && wire_type == WireType::LengthDelimited {
            let size = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
            let value = rest.split_at_checked(size);
            return Ok(value.map(|(value, after)| [before, value, after]));
        }
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_decoded_as_a_whole_and_its_value_stays_in_the_row(
            numbers: (u64, u64, bool),
            texts in (".{0,20}", ".{0,20}"),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            later in any::<bool>(),
        ) {
            let record = pb::Record {
                version: Some(pb::Version { time: numbers.0, region: 7 }),
                expires_at: numbers.1,
                tombstone: numbers.2,
                content_type: Bytes::from(texts.0),
                metadata: Bytes::from(texts.1),
                value: Bytes::from(value.clone()),
                ..Default::default()
            };
            let mut row = record.encode_to_vec();
            if later {
                // A field of a later version: tag 16, the number 1.
                row.extend_from_slice(&[0x80, 0x01, 0x01]);
            }
            let (decoded, found) = decode_without_value(&row).unwrap();
            prop_assert_eq!(found, &value[..]);
            prop_assert_eq!(decoded, pb::Record { value: Bytes::new(), ..record });
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(row in proptest::collection::vec(any::<u8>(), 0..100)) {
            let whole = record::decode(Bytes::from(row.clone()));
            let parts = decode_without_value(&row);
            prop_assert_eq!(parts.is_err(), whole.is_err());
        }
    }

    #[test]
    fn a_row_that_is_cut_short_is_an_error() {
        let record = pb::Record {
            value: Bytes::from_static(b"value"),
            ..Default::default()
        };
        let row = record.encode_to_vec();
        assert!(decode_without_value(&row[..row.len() - 1]).is_err());
        assert_eq!(decode_without_value(&[]).unwrap().1, b"");
    }
}
