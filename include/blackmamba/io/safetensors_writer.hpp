#pragma once
/// \file
/// Writer of the safetensors format: the target holds the old file or all of the new one, never a part.

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <blackmamba/core/view.hpp>
#include <blackmamba/io/atomic_file.hpp>
#include <blackmamba/io/safetensors.hpp>

namespace blackmamba::io {

/// One tensor to be written: row-major elements, whose memory must last until the file is written.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;
  std::span<std::byte const> bytes;
};

/// A contiguous view as a tensor to be written, under the element type of its scalar. Throws `shape_error` on other strides.
template <class T, int Rank>
TensorToWrite to_write(std::string name, View<T, Rank> view) {
  if (!view.contiguous())
    throw shape_error(concat("write_safetensors: tensor ", detail::in_quotes(name), " of shape ", to_string(view.shape()),
                             " and strides ", to_string(view.strides()), " is not contiguous"));
  return {std::move(name),
          dtype_of<std::remove_const_t<T>>(),
          {view.shape().extent, view.shape().extent + Rank},
          std::as_bytes(std::span{view.data(), static_cast<std::size_t>(view.size())})};
}

namespace detail {

/// The 8 bytes of length and the header, padded with spaces so that the data begin at a multiple of 8.
inline std::string safetensors_header(std::span<TensorToWrite const* const> tensors,
                                      std::map<std::string, std::string> const& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  Index place = 0;
  for (auto const* tensor : tensors) {
    auto const fail = [&](auto const&... parts) {
      throw value_error(concat("write_safetensors: tensor ", in_quotes(tensor->name), " ", parts...));
    };
    auto const size = static_cast<Index>(tensor->bytes.size());
    Index const elements = checked_elements(tensor->shape);
    Index bytes = 0;
    if (elements < 0 || __builtin_mul_overflow(elements, size_of(tensor->dtype), &bytes) || bytes != size)
      fail("of ", to_string(tensor->dtype), " and shape ", to_string(tensor->shape), " comes with ", size, " bytes");
    if (tensor->name == "__metadata__") fail("has the one name that the format keeps for itself");
    if (header.contains(tensor->name)) fail("is there twice");
    header[tensor->name] = {{"dtype", to_string(tensor->dtype)}, {"shape", tensor->shape}, {"data_offsets", {place, place + size}}};
    place += size;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (Json::exception const&) {
    throw value_error("write_safetensors: a name or the metadata is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > safetensors_header_limit)
    throw value_error(concat("write_safetensors: the header has ", text.size(), " bytes, more than the ", safetensors_header_limit,
                             " that the format allows"));
  std::uint64_t const length = text.size();
  return std::string(reinterpret_cast<char const*>(&length), sizeof length) + text;
}

}  // namespace detail

/// Writes a safetensors file, atomically: into a temporary file in the same folder, synchronised to the disk, then renamed.
///
/// The tensors lie in the order given, but those of wider elements first, so that each is aligned for its type, as the format
/// recommends. Throws `value_error` if a tensor's bytes do not match its shape or a name is there twice, `file_error` if the folder
/// cannot be written or the disk is full; then the target is what it was before, and nothing else remains.
inline void write_safetensors(std::filesystem::path const& path, std::span<TensorToWrite const> tensors,
                              std::map<std::string, std::string> const& metadata = {}) {
  std::vector<TensorToWrite const*> order;
  for (auto const& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](auto const* a, auto const* b) { return size_of(a->dtype) > size_of(b->dtype); });
  std::string const header = detail::safetensors_header(order, metadata);
  AtomicFile file{path};
  file.write(header);
  for (auto const* tensor : order) file.write(tensor->bytes);
  file.commit();
}

}  // namespace blackmamba::io
