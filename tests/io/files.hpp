#pragma once
// Odd files, made by hand: safetensors, zip archives and pickles, byte by byte, right or wrong in one place.

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <blackmamba/io/tensor_file.hpp>

namespace test {

using namespace blackmamba;

/// A folder of its own, removed with all that is in it.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "blackmamba-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(Folder const&) = delete;
  Folder& operator=(Folder const&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  std::filesystem::path operator/(std::string const& name) const { return path_ / name; }
  std::filesystem::path const& path() const { return path_; }

  std::filesystem::path write(std::string const& name, std::string_view bytes) const {
    std::ofstream{path_ / name, std::ios::binary} << bytes;
    return path_ / name;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (auto const& entry : std::filesystem::directory_iterator{path_}) out.push_back(entry.path().filename().string());
    return out;
  }

 private:
  std::filesystem::path path_;
};

inline std::string content(std::filesystem::path const& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}

/// A number as little-endian bytes.
template <class U>
std::string le(U value) {
  return {reinterpret_cast<char const*>(&value), sizeof value};
}

/// A safetensors file with this header, unpadded, and these data.
inline std::string safetensors(std::string const& header, std::string const& data) {
  return le(std::uint64_t{header.size()}) + header + data;
}

/// The tensors of a file in memory. The bytes go to a block of exactly their size, so that a sanitizer sees every step past them.
struct Opened {
  std::vector<std::byte> memory;
  io::TensorFile file;
};
inline Opened open_bytes(std::string const& bytes, std::string const& name) {
  Opened out;
  out.memory.resize(bytes.size());
  if (!bytes.empty()) std::memcpy(out.memory.data(), bytes.data(), bytes.size());
  out.file = io::TensorFile::view(out.memory, name);
  return out;
}

/// The message with which a file in memory is refused; "accepted" if it is not.
inline std::string refusal(std::string const& bytes, std::string const& name) {
  try {
    open_bytes(bytes, name);
  } catch (file_error const& e) {
    return e.what();
  }
  return "accepted";
}

inline bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

#define CHECK_SAYS(message, part)         \
  do {                                    \
    std::string const message_ = message; \
    INFO(message_);                       \
    CHECK(test::has(message_, part));     \
  } while (false)

/// A zip archive of stored entries, with the places of its parts, so that a test can spoil one.
struct Zip {
  std::string bytes;
  std::vector<std::size_t> local, central;
  std::size_t end = 0;

  template <class U>
  Zip& patch(std::size_t place, U value) {
    bytes.replace(place, sizeof value, le(value));
    return *this;
  }
};
struct ZipFile {
  std::string name, data;
};
inline Zip zip(std::vector<ZipFile> const& files, bool zip64 = false) {
  Zip out;
  std::string directory;
  for (auto const& [name, data] : files) {
    auto const size = static_cast<std::uint32_t>(data.size());
    auto const name_size = static_cast<std::uint16_t>(name.size());
    out.local.push_back(out.bytes.size());
    // version, flags, method, time, date, checksum; the central header begins with one version more
    std::string const common =
        le<std::uint16_t>(20) + le<std::uint16_t>(0) + le<std::uint16_t>(0) + le<std::uint32_t>(0) + le<std::uint32_t>(0);
    out.bytes += "PK\x03\x04" + common + le(size) + le(size) + le(name_size) + le<std::uint16_t>(0) + name + data;
    auto const place = static_cast<std::uint32_t>(out.local.back());
    std::string const extra = zip64 ? le<std::uint16_t>(1) + le<std::uint16_t>(24) + le<std::uint64_t>(size) +
                                          le<std::uint64_t>(size) + le<std::uint64_t>(place)
                                    : "";
    std::uint32_t const all = 0xffffffff;
    out.central.push_back(directory.size());
    directory += "PK\x01\x02" + le<std::uint16_t>(20) + common + le(zip64 ? all : size) + le(zip64 ? all : size) + le(name_size) +
                 le(static_cast<std::uint16_t>(extra.size())) + le<std::uint16_t>(0) + le<std::uint16_t>(0) + le<std::uint16_t>(0) +
                 le<std::uint32_t>(0) + le(zip64 ? all : place) + name + extra;
  }
  std::size_t const begin = out.bytes.size();
  for (auto& place : out.central) place += begin;
  out.bytes += directory;
  auto const count = static_cast<std::uint16_t>(files.size());
  if (zip64) {
    std::size_t const end64 = out.bytes.size();
    out.bytes += "PK\x06\x06" + le<std::uint64_t>(44) + le<std::uint16_t>(45) + le<std::uint16_t>(45) + le<std::uint32_t>(0) +
                 le<std::uint32_t>(0) + le<std::uint64_t>(count) + le<std::uint64_t>(count) + le<std::uint64_t>(directory.size()) +
                 le<std::uint64_t>(begin);
    out.bytes += "PK\x06\x07" + le<std::uint32_t>(0) + le<std::uint64_t>(end64) + le<std::uint32_t>(1);
  }
  out.end = out.bytes.size();
  out.bytes += "PK\x05\x06" + le<std::uint16_t>(0) + le<std::uint16_t>(0) + le(zip64 ? std::uint16_t{0xffff} : count) +
               le(zip64 ? std::uint16_t{0xffff} : count) + le(zip64 ? 0xffffffffu : static_cast<std::uint32_t>(directory.size())) +
               le(zip64 ? 0xffffffffu : static_cast<std::uint32_t>(begin)) + le<std::uint16_t>(0);
  return out;
}

namespace pickle {

inline std::string text(std::string const& value) { return "X" + le(static_cast<std::uint32_t>(value.size())) + value; }
inline std::string integer(std::int32_t value) { return "J" + le(value); }
inline std::string global(std::string const& module, std::string const& name) { return "c" + module + "\n" + name + "\n"; }
inline std::string tuple(std::string const& items) { return "(" + items + "t"; }
inline std::string tuple_of(std::vector<int> const& values) {
  std::string items;
  for (int const value : values) items += integer(value);
  return tuple(items);
}
inline std::string ordered_dict() { return global("collections", "OrderedDict") + ")R"; }
inline std::string storage(std::string const& type, std::string const& key, int count) {
  return tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + integer(count)) + "Q";
}
inline std::string tensor(std::string const& in_storage, int offset, std::vector<int> const& shape,
                          std::vector<int> const& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(in_storage + integer(offset) + tuple_of(shape) + tuple_of(strides) + "\x89" + ordered_dict()) + "R";
}
inline std::string dict(std::string const& items) { return "}(" + items + "u"; }
inline std::string whole(std::string const& object) { return "\x80\x02" + object + "."; }

}  // namespace pickle

/// A torch checkpoint: this pickle, and storages called 0, 1, 2, …
inline Zip torch(std::string const& data_pkl, std::vector<std::string> const& storages, std::string const& byteorder = "little") {
  std::vector<ZipFile> files{{"model/data.pkl", data_pkl}, {"model/byteorder", byteorder}};
  for (std::size_t i = 0; i < storages.size(); ++i) files.push_back({concat("model/data/", i), storages[i]});
  return zip(files);
}

}  // namespace test
