//! HTTP/2 frames written by hand (RFC 9113, and literals of RFC 7541), as far as a client needs them
//! that no library would let misbehave. Pure.

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The window of a connection before anybody changes it.
const WINDOW_AT_FIRST: u32 = 65_535;

/// Opens a connection, and allows the other side to send as much as it can.
#[must_use]
pub fn opening() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend(WINDOW_MAX.to_be_bytes());
    frame(&mut bytes, SETTINGS, 0, 0, &settings);
    frame(&mut bytes, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_AT_FIRST).to_be_bytes());
    bytes
}

/// The headers of a gRPC call; its message is still to come.
#[must_use]
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![
        0x83, // :method: POST
        0x86, // :scheme: http
    ];
    literal(&mut block, ":path", path);
    literal(&mut block, ":authority", "localhost");
    literal(&mut block, "content-type", "application/grpc");
    literal(&mut block, "te", "trailers");
    let mut bytes = Vec::new();
    frame(&mut bytes, HEADERS, END_HEADERS, stream, &block);
    bytes
}

/// The whole message of a call, which ends what the client has to say.
#[must_use]
pub fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let body = [&message_head(message.len()), message].concat();
    frame(&mut bytes, DATA, END_STREAM, stream, &body);
    bytes
}

/// One piece of a message, as a frame of its own.
#[must_use]
pub fn piece(stream: u32, piece: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, DATA, 0, stream, piece);
    bytes
}

/// What gRPC puts before a message of this length: not compressed, so many bytes.
#[must_use]
pub fn message_head(length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a message is far below 4 GiB");
    let mut head = vec![0];
    head.extend(length.to_be_bytes());
    head
}

/// A protobuf field of bytes, for field numbers below 16.
#[must_use]
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(bytes);
    field
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame is far below 16 MiB");
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// A header field with its name spelled out, in neither table, without Huffman coding.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).ok().filter(|length| *length < 0x7f).expect("short"));
        block.extend(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_kind_flags_stream_and_payload() {
        let expected = [0, 0, 7, DATA, END_STREAM, 0, 0, 0, 5, 0, 0, 0, 0, 2, b'h', b'i'];
        assert_eq!(message(5, b"hi"), expected);
    }

    #[test]
    fn lengths_of_fields_are_varints() {
        assert_eq!(field(1, b"k"), [0x0a, 1, b'k']);
        assert_eq!(field(2, &[7; 300])[..4], [0x12, 0xac, 0x02, 7]);
    }
}
