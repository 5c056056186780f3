//! The codec of every gRPC call: protobuf, in buffers that begin small.
//!
//! Each call makes a buffer for its request and one for its answer. Most messages here have one or
//! two hundred bytes: the 8 KiB that are usual cost an allocator's slow path each, a fifth of the
//! CPU of a put, and keep 8 KiB alive for whoever keeps a slice of a message. Buffers grow as needed.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Where buffers begin: above the usual message, below what allocators keep at hand per thread.
const BUFFER_SIZE: usize = 512;
/// A stream hands over what it has encoded when it is this much.
const YIELD_AT: usize = 32 << 10;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        LeanCodec(PhantomData)
    }
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_SIZE, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_SIZE, YIELD_AT))
    }
}
