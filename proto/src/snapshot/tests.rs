//! A snapshot is read as it was written, or refused.

use super::*;
use crate::command::Outcome;
use crate::convert::RecordsWriter;
use crate::digest::{self, Rolling};
use crate::ids::{
    Epoch, EpochStart, Generation, History, OpNumber, RequestNumber, SessionId, Version, ViewNumber,
};
use crate::message::{AnswerRecord, SessionRecord};

fn start(view: u64, op: u64) -> EpochStart {
    EpochStart::at(position(view, op), History([u8::try_from(view).unwrap_or(0); 16]))
}

fn position(view: u64, op: u64) -> Position {
    let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
    Position { epoch, op: OpNumber(op) }
}

fn session(id: u64) -> SessionRecord {
    let answer = |number| {
        let answer = AnswerRecord { command_hash: 4, outcome: Outcome::Barrier };
        (RequestNumber(number), answer)
    };
    SessionRecord {
        id: SessionId(id),
        floor: RequestNumber(3),
        answers: vec![answer(3), answer(5)],
    }
}

/// Two sessions, one of them in two pieces, and so many keys: chunks and their digest.
fn state(keys: u64) -> (Vec<Bytes>, Digest) {
    let mut rolling = Rolling::default();
    let mut chunks = Vec::new();
    let mut writer = RecordsWriter::new(1 << 20);
    for id in [7, 8, 8] {
        writer.session(&session(id));
    }
    for id in [7, 8].map(SessionId) {
        rolling.add(digest::of_session(id, RequestNumber(3)));
    }
    for id in [7, 8, 8] {
        for (number, answer) in session(id).answers {
            rolling.add(digest::of_answer(SessionId(id), number, &answer));
        }
    }
    chunks.extend(writer.finish());
    let mut room = Vec::new();
    let mut writer = RecordsWriter::new(60);
    for number in 0..keys {
        let (key, value) = (format!("key {number:04}"), vec![number as u8; number as usize % 9]);
        let version = Version(number + 9);
        rolling.add(digest::of_key(key.as_bytes(), &value, version, &mut room));
        if !writer.key(key.as_bytes(), &value, version) {
            chunks.extend(std::mem::replace(&mut writer, RecordsWriter::new(60)).finish());
            writer.key(key.as_bytes(), &value, version);
        }
    }
    chunks.extend(writer.finish());
    (chunks, rolling.with(Rolling::default()))
}

fn head(keys: u64) -> SnapshotHead {
    SnapshotHead { cluster: ClusterId([7; 16]), at: position(5, 40), keys }
}

fn end(chunks: &[Bytes], digest: Digest) -> SnapshotEnd {
    SnapshotEnd {
        epochs: vec![start(2, 1), start(5, 30)],
        log_time: LogTime::from_millis(77),
        digest,
        chunks: chunks.len() as u64,
    }
}

fn written(head: &SnapshotHead, chunks: &[Bytes], end: &SnapshotEnd) -> Vec<u8> {
    let (mut writer, bytes) = Writer::new(head);
    let mut file = bytes.to_vec();
    for chunk in chunks {
        file.extend_from_slice(&writer.block(chunk));
        file.extend_from_slice(chunk);
    }
    file.extend_from_slice(&writer.end(end));
    file
}

fn sound(keys: u64) -> Vec<u8> {
    let (chunks, digest) = state(keys);
    written(&head(keys), &chunks, &end(&chunks, digest))
}

/// The items of a file that comes in pieces of these sizes, if it is sound.
fn read(file: &[u8], sizes: impl IntoIterator<Item = usize>) -> Result<Vec<Item>, Malformed> {
    let (mut reader, mut verifier) = (Reader::new(), Verifier::default());
    let mut items = Vec::new();
    let mut rest = file;
    let mut sizes = sizes.into_iter();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
        let (piece, behind) = rest.split_at(size);
        let piece = Bytes::copy_from_slice(piece);
        verifier.push(piece.clone())?;
        reader.push(piece);
        rest = behind;
        while let Some(item) = reader.next()? {
            items.push(item);
        }
    }
    let verified = verifier.finish()?;
    assert_eq!(
        (verified.bytes, items.first()),
        (file.len() as u64, Some(&Item::Head(verified.head)))
    );
    assert_eq!((reader.finish(), items.last()), (Ok(()), Some(&Item::End(verified.end))));
    Ok(items)
}

#[test]
fn what_was_written_is_read_whatever_the_pieces() {
    let (chunks, digest) = state(40);
    assert!(chunks.len() > 10);
    let (head, end) = (head(40), end(&chunks, digest));
    let file = written(&head, &chunks, &end);
    let expected: Vec<Item> = [Item::Head(head)]
        .into_iter()
        .chain(chunks.into_iter().map(Item::Block))
        .chain([Item::End(end)])
        .collect();
    for size in 1..200 {
        assert_eq!(read(&file, std::iter::repeat(size)), Ok(expected.clone()), "pieces of {size}");
    }
}

#[test]
fn an_empty_state_has_a_snapshot() {
    let head = SnapshotHead { at: Position::default(), ..head(0) };
    let end = SnapshotEnd { epochs: Vec::new(), ..end(&[], Digest::default()) };
    assert!(read(&written(&head, &[], &end), [9]).is_ok());
}

#[test]
fn a_file_cut_anywhere_is_incomplete() {
    let file = sound(40);
    for length in 0..file.len() {
        let cut = read(&file[..length], [length / 2]);
        assert_eq!(cut, Err(Malformed::Incomplete { bytes: length as u64 }));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let file = sound(12);
    for byte in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[byte] ^= 1 << bit;
            assert!(read(&flipped, [100]).is_err(), "bit {bit} of byte {byte}");
        }
    }
}

#[test]
fn bytes_behind_the_end_are_noticed() {
    let file = [sound(3), vec![0]].concat();
    for first in [1, file.len() - 1, file.len()] {
        let read = read(&file, [first]);
        assert!(matches!(read, Err(Malformed::Damaged { .. })), "{read:?}");
    }
}

#[test]
fn parts_that_are_missing_doubled_or_moved_are_noticed() {
    let (chunks, digest) = state(40);
    let announced = |chunks: &[Bytes]| {
        let (mut writer, head) = Writer::new(&head(40));
        let blocks: Vec<_> =
            chunks.iter().map(|chunk| [&writer.block(chunk)[..], chunk].concat()).collect();
        (head, blocks, writer.end(&end(chunks, digest)))
    };
    let (head, blocks, end) = announced(&chunks);
    let file = |blocks: &[Vec<u8>]| [&head[..], &blocks.concat(), &end].concat();
    assert!(read(&file(&blocks), []).is_ok());
    let without = [&blocks[..3], &blocks[4..]].concat();
    let doubled = [&blocks[..3], &blocks[2..]].concat();
    let mut swapped = blocks.clone();
    swapped.swap(2, 3);
    for blocks in [without, doubled, swapped] {
        let read = read(&file(&blocks), []);
        assert!(matches!(read, Err(Malformed::Damaged { .. })), "{read:?}");
    }
}

#[test]
fn contents_that_are_not_the_state_of_the_head_are_refused() {
    let (chunks, digest) = state(40);
    let contents = |head: &SnapshotHead, chunks: &[Bytes], end: &SnapshotEnd| {
        let read = read(&written(head, chunks, end), [1000]);
        assert!(matches!(read, Err(Malformed::Contents { .. })), "{read:?}");
    };
    contents(&head(41), &chunks, &end(&chunks, digest));
    contents(&head(40), &chunks, &end(&chunks, Digest(digest.0 ^ 1)));
    contents(&head(40), &chunks[1..], &end(&chunks[1..], digest));
    let mut swapped = chunks.clone();
    swapped.swap(4, 5);
    contents(&head(40), &swapped, &end(&chunks, digest));
    contents(&head(40), &[Bytes::from_static(&[9])], &end(&chunks[..1], digest));
    for epochs in [vec![], vec![start(4, 30)], vec![start(5, 41)]] {
        contents(&head(40), &chunks, &SnapshotEnd { epochs, ..end(&chunks, digest) });
    }
}

#[test]
fn other_files_and_newer_formats_are_told_by_their_first_bytes() {
    assert_eq!(read(b"#!", []), Err(Malformed::NotASnapshot));
    assert_eq!(read(&[0; 200], [1]), Err(Malformed::NotASnapshot));
    let mut newer = sound(1);
    newer[MAGIC.len()] += 1;
    assert_eq!(read(&newer, []), Err(Malformed::Newer { level: FORMAT_LEVEL + 1 }));
}

#[test]
fn no_length_is_believed_beyond_what_may_be() {
    let (_, head) = Writer::new(&head(0));
    for kind in [1_u32, 2, 3] {
        let frame = [kind.to_le_bytes(), u32::MAX.to_le_bytes(), [0; 4]].concat();
        let mut reader = Reader::new();
        reader.push(Bytes::from([&head[..], &frame].concat()));
        assert!(matches!(reader.next(), Ok(Some(Item::Head(_)))));
        let refused = reader.next();
        assert!(matches!(refused, Err(Malformed::Damaged { .. })), "{refused:?}");
        assert_eq!(reader.next(), refused, "it stays so");
    }
}

#[test]
fn a_block_in_one_piece_is_not_copied() {
    let (chunks, digest) = state(4);
    let file = Bytes::from(written(&head(4), &chunks, &end(&chunks, digest)));
    let mut reader = Reader::new();
    reader.push(file.clone());
    while let Ok(Some(item)) = reader.next() {
        if let Item::Block(chunk) = item {
            assert!(file.as_ptr_range().contains(&chunk.as_ptr()));
        }
    }
}
