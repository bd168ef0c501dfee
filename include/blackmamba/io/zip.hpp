#pragma once
/// \file
/// Reader of zip archives whose entries are stored as they are: what torch.save writes. Nothing is ever inflated, so an archive
/// cannot be larger in memory than on the disk.
///
/// Source: PKWARE, ".ZIP File Format Specification" 6.3.10.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <blackmamba/io/tensor_info.hpp>

namespace blackmamba::io {

/// One file of an archive, in the archive's own memory.
struct ZipEntry {
  std::string_view name;
  std::span<std::byte const> data;
};

namespace detail {

/// Reads little-endian numbers from places that it checks.
class ZipReader {
 public:
  static constexpr std::uint64_t most_entries = std::uint64_t{1} << 20;

  ZipReader(std::span<std::byte const> bytes, std::string const& file) : bytes_{bytes}, file_{file} {}

  std::vector<ZipEntry> entries() {
    Directory const directory = find_directory();
    if (directory.count > most_entries) fail("the archive lists ", directory.count, " entries, more than ", most_entries);
    if (directory.count > directory.size / central_size)
      fail("the archive lists ", directory.count, " entries in a directory of ", directory.size, " bytes");
    std::vector<Located> found;
    std::uint64_t place = directory.begin;
    for (std::uint64_t i = 0; i < directory.count; ++i) found.push_back(entry(directory, place));
    if (place != directory.begin + directory.size)
      fail("the archive's directory has ", directory.size, " bytes, but its entries do not fill them");
    check_apart(found);
    std::vector<ZipEntry> out;
    for (auto const& each : found) out.push_back(each.entry);
    return out;
  }

 private:
  static constexpr std::uint64_t end_size = 22, locator_size = 20, end64_size = 56, central_size = 46, local_size = 30;

  struct Directory {
    std::uint64_t begin, size, count;
  };
  struct Located {
    ZipEntry entry;
    std::uint64_t begin, end;  ///< from the local header to the end of the data
  };

  template <class... Parts>
  [[noreturn]] void fail(Parts const&... parts) const {
    throw file_error(concat(file_, ": ", parts...));
  }

  template <class U>
  U at(std::uint64_t place) const {
    if (place > bytes_.size() || bytes_.size() - place < sizeof(U)) fail("is cut off: byte ", place, " is not there");
    U value;
    std::memcpy(&value, bytes_.data() + place, sizeof value);
    return value;
  }
  std::uint16_t u16(std::uint64_t place) const { return at<std::uint16_t>(place); }
  std::uint32_t u32(std::uint64_t place) const { return at<std::uint32_t>(place); }
  std::uint64_t u64(std::uint64_t place) const { return at<std::uint64_t>(place); }

  /// Whether `size` bytes from `begin` on end at `limit` or before.
  static bool within(std::uint64_t begin, std::uint64_t size, std::uint64_t limit) {
    return begin <= limit && size <= limit - begin;
  }

  std::string_view text(std::uint64_t place, std::uint64_t size) const {
    if (!within(place, size, bytes_.size())) fail("is cut off: bytes ", place, " to ", place + size, " are not there");
    return {reinterpret_cast<char const*>(bytes_.data()) + place, static_cast<std::size_t>(size)};
  }

  /// The end record stands before a comment of at most 64 KiB that reaches to the end of the file.
  Directory find_directory() const {
    std::uint64_t const size = bytes_.size();
    for (std::uint64_t back = end_size; back <= size && back <= end_size + 0xffff; ++back) {
      std::uint64_t const end = size - back;
      if (u32(end) != 0x06054b50 || u16(end + 20) != back - end_size) continue;
      if (u16(end + 4) != 0 || u16(end + 6) != 0 || u16(end + 8) != u16(end + 10)) fail("is one part of an archive in several");
      Directory out{u32(end + 16), u32(end + 12), u16(end + 10)};
      std::uint64_t limit = end;
      if (end >= locator_size && u32(end - locator_size) == 0x07064b50) {
        std::uint64_t const end64 = u64(end - locator_size + 8);
        if (!within(end64, end64_size, end - locator_size) || u32(end64) != 0x06064b50)
          fail("has no zip64 record at byte ", end64, ", where its locator says that it is");
        out = {u64(end64 + 48), u64(end64 + 40), u64(end64 + 32)};
        limit = end64;
      }
      if (!within(out.begin, out.size, limit))
        fail("the archive's directory of ", out.size, " bytes from byte ", out.begin, " on does not end by byte ", limit,
             ", where its end record is");
      return out;
    }
    fail("has no end record of a zip archive: it is cut off, or no archive");
  }

  /// The entry at `place` of the directory; moves `place` behind it.
  Located entry(Directory const& directory, std::uint64_t& place) const {
    std::uint64_t const limit = directory.begin + directory.size;
    if (!within(place, central_size, limit) || u32(place) != 0x02014b50)
      fail("the archive's directory has no entry at byte ", place);
    std::uint64_t const name_size = u16(place + 28), extra_size = u16(place + 30), comment_size = u16(place + 32);
    if (!within(place, central_size + name_size + extra_size + comment_size, limit))
      fail("the archive's directory is shorter than its entry at byte ", place);
    Located out;
    out.entry.name = text(place + central_size, name_size);
    check_name(out.entry.name);
    auto const fail_here = [&](auto const&... parts) { fail("entry ", in_quotes(out.entry.name), " ", parts...); };

    std::uint16_t const flags = u16(place + 8), method = u16(place + 10);
    if (flags & 1) fail_here("is encrypted");
    if (method != 0)
      fail_here("is compressed (method ", method,
                "): torch.save stores entries as they are, and nothing else is read; save it again with torch");
    Sizes const sizes = sizes_of({u32(place + 24), u32(place + 20), u32(place + 42)}, place + central_size + name_size, extra_size);
    if (sizes.stored != sizes.full) fail_here("is stored in ", sizes.stored, " bytes, but has ", sizes.full);

    // The local header says the same again, and only it says where the data begin.
    std::uint64_t const local = sizes.offset;
    if (!within(local, local_size, directory.begin) || u32(local) != 0x04034b50) fail_here("has no header at byte ", local);
    std::uint64_t const local_name = u16(local + 26), local_extra = u16(local + 28);
    if (!within(local, local_size + local_name, directory.begin) || text(local + local_size, local_name) != out.entry.name)
      fail_here("has another name in its own header");
    if (u16(local + 8) != method) fail_here("has another compression in its own header");
    std::uint32_t const local_bytes = u32(local + 18);
    bool const sizes_follow = u16(local + 6) & 8;
    if (!sizes_follow && local_bytes != 0xffffffff && local_bytes != sizes.stored)
      fail_here("has ", sizes.stored, " bytes in the directory and ", local_bytes, " in its own header");
    std::uint64_t const data = local + local_size + local_name + local_extra;
    if (!within(data, sizes.stored, directory.begin))
      fail_here("has ", sizes.stored, " bytes from byte ", data, " on, but the archive's directory begins at byte ",
                directory.begin);
    out.entry.data = bytes_.subspan(static_cast<std::size_t>(data), static_cast<std::size_t>(sizes.stored));
    out.begin = local;
    out.end = data + sizes.stored;
    place += central_size + name_size + extra_size + comment_size;
    return out;
  }

  struct Sizes {
    std::uint64_t full, stored, offset;
  };

  /// What does not fit into 32 bits stands, in this order, in the extra field of kind 1.
  Sizes sizes_of(Sizes sizes, std::uint64_t extra, std::uint64_t extra_size) const {
    std::uint64_t const limit = extra + extra_size;
    while (within(extra, 4, limit)) {
      std::uint64_t const kind = u16(extra), size = u16(extra + 2);
      std::uint64_t place = extra + 4;
      if (!within(place, size, limit)) fail("the extra field at byte ", extra, " of the archive is longer than its entry says");
      extra = place + size;
      if (kind != 1) continue;
      for (std::uint64_t* const value : {&sizes.full, &sizes.stored, &sizes.offset}) {
        if (*value != 0xffffffff) continue;
        if (!within(place, 8, extra)) fail("the zip64 field at byte ", place, " of the archive is too short");
        *value = u64(place);
        place += 8;
      }
    }
    return sizes;
  }

  void check_name(std::string_view name) const {
    bool bad = name.empty() || name.front() == '/' || name.find_first_of(std::string_view{"\\\0", 2}) != std::string_view::npos;
    for (std::size_t begin = 0; begin <= name.size() && !bad;) {
      std::size_t const end = std::min(name.find('/', begin), name.size());
      bad = name.substr(begin, end - begin) == "..";
      begin = end + 1;
    }
    if (bad) fail("the archive has an entry called ", in_quotes(name), ", which is no name inside a folder");
  }

  /// No two entries share bytes or a name.
  void check_apart(std::vector<Located> const& found) const {
    std::vector<Located const*> sorted;
    for (auto const& each : found) sorted.push_back(&each);
    std::sort(sorted.begin(), sorted.end(), [](auto const* a, auto const* b) { return a->begin < b->begin; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i]->begin < sorted[i - 1]->end)
        fail("entries ", in_quotes(sorted[i - 1]->entry.name), " and ", in_quotes(sorted[i]->entry.name), " overlap at byte ",
             sorted[i]->begin);
    std::sort(sorted.begin(), sorted.end(), [](auto const* a, auto const* b) { return a->entry.name < b->entry.name; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i]->entry.name == sorted[i - 1]->entry.name)
        fail("the archive has two entries called ", in_quotes(sorted[i]->entry.name));
  }

  std::span<std::byte const> bytes_;
  std::string const& file_;
};

}  // namespace detail

/// The entries of a zip archive that lies in memory, zip64 included. Throws `file_error` if an entry is compressed or encrypted, if
/// a header disagrees with another or with the file, or if names or ranges of entries collide or leave the archive.
///
/// The checksums are not compared: that would read every byte of a checkpoint a second time.
inline std::vector<ZipEntry> parse_zip(std::span<std::byte const> bytes, std::string const& file) {
  return detail::ZipReader{bytes, file}.entries();
}

}  // namespace blackmamba::io
