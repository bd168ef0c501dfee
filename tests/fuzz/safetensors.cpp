// Any bytes as a safetensors file: they are refused by file_error, or every tensor of them can be read.

#include "fuzz/read_all.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  test::read_all({reinterpret_cast<std::byte const*>(data), size}, "fuzz.safetensors");
  try {
    blackmamba::io::parse_shard_index({reinterpret_cast<char const*>(data), size}, "fuzz.safetensors.index.json");
  } catch (blackmamba::file_error const&) {
  }
  return 0;
}
