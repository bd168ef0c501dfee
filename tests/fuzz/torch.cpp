// Any bytes as a torch checkpoint, and as the pickle inside one: refused by file_error, or every tensor can be read.

#include <cstring>
#include <string>
#include <vector>

#include "fuzz/read_all.hpp"

namespace {

template <class U>
void put(std::vector<std::byte>& out, U value) {
  auto const* const bytes = reinterpret_cast<std::byte const*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

/// A sound archive of this pickle and a storage of 64 bytes, so that the fuzzer need not find its way through the zip first.
std::vector<std::byte> archive_of(std::span<std::byte const> pickle) {
  std::vector<std::byte> const storage(64, std::byte{1});
  std::pair<std::string, std::span<std::byte const>> const files[]{{"m/data.pkl", pickle}, {"m/data/0", storage}};
  std::vector<std::byte> out, directory;
  for (auto const& file : files) {
    std::string const& name = file.first;
    std::span<std::byte const> const data = file.second;
    auto const place = static_cast<std::uint32_t>(out.size());
    auto const text = std::as_bytes(std::span{name.data(), name.size()});
    auto const common = [&](std::vector<std::byte>& to) {
      for (int i = 0; i < 3; ++i) put(to, std::uint16_t{0});  // version, flags, method
      put(to, std::uint32_t{0}), put(to, std::uint32_t{0});   // time, checksum
      put(to, static_cast<std::uint32_t>(data.size())), put(to, static_cast<std::uint32_t>(data.size()));
      put(to, static_cast<std::uint16_t>(name.size())), put(to, std::uint16_t{0});
    };
    put(out, 0x04034b50u), common(out);
    out.insert(out.end(), text.begin(), text.end());
    out.insert(out.end(), data.begin(), data.end());
    put(directory, 0x02014b50u), put(directory, std::uint16_t{0}), common(directory);
    for (int i = 0; i < 5; ++i) put(directory, std::uint16_t{0});
    put(directory, place);
    directory.insert(directory.end(), text.begin(), text.end());
  }
  auto const begin = static_cast<std::uint32_t>(out.size());
  out.insert(out.end(), directory.begin(), directory.end());
  put(out, 0x06054b50u), put(out, 0u), put(out, std::uint16_t{2}), put(out, std::uint16_t{2});
  put(out, static_cast<std::uint32_t>(directory.size())), put(out, begin), put(out, std::uint16_t{0});
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes{reinterpret_cast<std::byte const*>(data), size};
  test::read_all(bytes, "fuzz.bin");
  test::read_all(archive_of(bytes), "fuzz.bin");
  return 0;
}
