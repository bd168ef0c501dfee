#pragma once
/// \file
/// Reader of the safetensors format: 8 bytes with the length of a JSON header, the header, the tensors without gaps.
///
/// Source: the format's description at https://huggingface.co/docs/safetensors, whose every demand is checked here.

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <blackmamba/io/json.hpp>
#include <blackmamba/io/tensor_info.hpp>

namespace blackmamba::io {

/// The longest header that the format allows, in bytes.
inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;

namespace detail {

/// One entry of the header, checked in itself. `begin` and `end` count from the end of the header.
struct SafetensorsEntry {
  TensorInfo info;
  Index begin, end;
};

inline SafetensorsEntry safetensors_entry(std::string const& name, Json const& entry, std::string const& file) {
  std::string const where = concat(file, ": tensor ", in_quotes(name));
  auto const fail = [&](auto const&... parts) { throw file_error(concat(where, " ", parts...)); };
  if (!entry.is_object()) fail("is described by ", describe(entry), ", not by an object");
  auto const member = [&](char const* key) -> Json const& {
    auto const found = entry.find(key);
    if (found == entry.end()) fail("has no ", key);
    return *found;
  };

  SafetensorsEntry out;
  out.info.name = name;
  out.info.file = file;
  Json const& dtype = member("dtype");
  auto const known = dtype.is_string() ? dtype_from_name(dtype.get_ref<std::string const&>()) : std::nullopt;
  if (!known) fail("has dtype ", describe(dtype), ", which is not one that can be read");
  out.info.dtype = *known;

  Json const& shape = member("shape");
  if (!shape.is_array()) fail("has ", describe(shape), " as its shape, not a list");
  for (Json const& extent : shape) {
    if (!is_index(extent)) fail("has extent ", describe(extent), ", not a whole number");
    out.info.shape.push_back(extent.get<Index>());
  }

  Json const& offsets = member("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !is_index(offsets[0]) || !is_index(offsets[1]))
    fail("has data_offsets that are not two whole numbers");
  out.begin = offsets[0].get<Index>();
  out.end = offsets[1].get<Index>();
  if (out.begin > out.end) fail("ends at byte ", out.end, ", before it begins at byte ", out.begin);

  Index bytes = 0;
  Index const elements = checked_elements(out.info.shape);
  if (elements < 0 || __builtin_mul_overflow(elements, size_of(*known), &bytes))
    fail("has shape ", to_string(out.info.shape), " of more than 2^63 - 1 bytes");
  if (bytes != out.end - out.begin)
    fail("of ", to_string(*known), " and shape ", to_string(out.info.shape), " takes ", bytes, " bytes, but its data_offsets ",
         out.begin, " to ", out.end, " hold ", out.end - out.begin);
  out.info.bytes = bytes;
  out.info.strides = row_major(out.info.shape);
  return out;
}

}  // namespace detail

/// The tensors of a safetensors file that lies in memory, in the order of their bytes. The memory must outlive them.
///
/// \param file  how messages call it
/// Throws `file_error` naming file, tensor and numbers if anything disagrees with the format: the header's length, its JSON, a
/// duplicate name, an unknown dtype, a shape that does not match its range, ranges that overlap, leave holes or leave the file.
inline std::vector<TensorInfo> parse_safetensors(std::span<std::byte const> bytes, std::string const& file) {
  std::uint64_t header = 0;
  if (bytes.size() < sizeof header)
    throw file_error(
        concat(file, ": is no safetensors file: it has ", bytes.size(), " bytes, fewer than the 8 of a header's length"));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header > safetensors_header_limit)
    throw file_error(concat(file, ": is no safetensors file: its header would have ", header, " bytes, more than the ",
                            safetensors_header_limit, " that the format allows"));
  if (header > bytes.size() - sizeof header)
    throw file_error(
        concat(file, ": is cut off: its header has ", header, " bytes, but only ", bytes.size() - sizeof header, " follow"));
  std::string_view const text{reinterpret_cast<char const*>(bytes.data()) + sizeof header, static_cast<std::size_t>(header)};
  if (!text.starts_with('{')) throw file_error(concat(file, ": is no safetensors file: its header does not begin with '{'"));
  auto const json = detail::parse_json(text, concat(file, ": the header"));

  std::vector<detail::SafetensorsEntry> entries;
  for (auto const& [name, entry] : json.items()) {
    if (name != "__metadata__") {
      entries.push_back(detail::safetensors_entry(name, entry, file));
      continue;
    }
    if (!entry.is_object()) throw file_error(concat(file, ": __metadata__ is ", detail::describe(entry), ", not an object"));
    for (auto const& [key, value] : entry.items())
      if (!value.is_string())
        throw file_error(
            concat(file, ": __metadata__ maps ", detail::in_quotes(key), " to ", detail::describe(value), ", not to text"));
  }
  // Sorted by place, each must begin where the one before ended; entries without bytes come before the one they share a place with.
  std::stable_sort(entries.begin(), entries.end(),
                   [](auto const& a, auto const& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });

  auto const data = bytes.subspan(sizeof header + static_cast<std::size_t>(header));
  auto const size = static_cast<Index>(data.size());
  std::vector<TensorInfo> tensors;
  tensors.reserve(entries.size());
  Index place = 0;
  for (auto& [info, begin, end] : entries) {
    auto const fail = [&, &info = info](auto const&... parts) {
      throw file_error(concat(file, ": tensor ", detail::in_quotes(info.name), " ", parts...));
    };
    if (end > size) fail("ends at byte ", end, " of the data, which has ", size);
    if (begin < place)
      fail("begins at byte ", begin, " and overlaps ", detail::in_quotes(tensors.back().name), ", which ends at byte ", place);
    if (begin > place) fail("begins at byte ", begin, " and leaves a hole after byte ", place);
    info.data = data.data() + begin;
    place = end;
    tensors.push_back(std::move(info));
  }
  if (place != size) throw file_error(concat(file, ": has ", size - place, " bytes after its last tensor"));
  return tensors;
}

/// One line of a shard index.
struct ShardEntry {
  std::string tensor, file;
};

/// The weight map of a `*.safetensors.index.json`, ordered by tensor name.
///
/// Throws `file_error` if it is not such a map, or names a shard that is not a plain file name in the index's own folder.
inline std::vector<ShardEntry> parse_shard_index(std::string_view text, std::string const& file) {
  auto const json = detail::parse_json(text, concat(file, ": the index"));
  auto const map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object())
    throw file_error(concat(file, ": has no object \"weight_map\" that maps tensors to files"));
  std::vector<ShardEntry> entries;
  for (auto const& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      throw file_error(
          concat(file, ": maps tensor ", detail::in_quotes(tensor), " to ", detail::describe(shard), ", not to a file name"));
    auto const& name = shard.get_ref<std::string const&>();
    if (name.find_first_of(std::string_view{"/\\\0", 3}) != std::string::npos || !name.ends_with(".safetensors"))
      throw file_error(concat(file, ": maps tensor ", detail::in_quotes(tensor), " to ", detail::in_quotes(name),
                              ", which is not the name of a .safetensors file in the same folder"));
    entries.push_back({tensor, name});
  }
  return entries;
}

}  // namespace blackmamba::io
