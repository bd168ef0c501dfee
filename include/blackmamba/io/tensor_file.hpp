#pragma once
/// \file
/// A checkpoint, whatever holds it: named tensors over mapped files, read into the library's scalars.

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/io/mapped_file.hpp>
#include <blackmamba/io/safetensors.hpp>
#include <blackmamba/io/tensor_info.hpp>
#include <blackmamba/io/torch_checkpoint.hpp>

namespace blackmamba::io {

/// An immutable, ordered set of named tensors. Copies share the mapped files, which stay mapped as long as one of them lives.
///
/// Opening reads and checks the headers alone; a tensor's bytes are read from the disk when it is read, straight into its place.
/// Every failure is a `file_error` that names file, tensor and numbers.
class TensorFile {
 public:
  /// Opens a `.safetensors` file, a `.safetensors.index.json` with its shards, a torch checkpoint (`.bin`, `.pt`, `.pth`), or a
  /// folder with one of `model.safetensors.index.json`, `model.safetensors`, `pytorch_model.bin`: the first of these that is there.
  static TensorFile open(std::filesystem::path const& path);

  /// The tensors of a file that lies in memory, which must outlive them. `name` is how messages call it; its ending, and the first
  /// bytes, say which format it is.
  static TensorFile view(std::span<std::byte const> bytes, std::string const& name) {
    TensorFile out;
    out.path_ = name;
    out.adopt(parse(bytes, name));
    return out;
  }

  /// What `open` was given, or found in the folder that it was given.
  std::filesystem::path const& path() const { return path_; }

  /// In the order of the file.
  std::vector<TensorInfo> const& tensors() const { return tensors_; }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (auto const& tensor : tensors_) out.push_back(tensor.name);
    return out;
  }
  bool contains(std::string_view name) const { return places_.contains(std::string{name}); }

  /// Throws `file_error` with the closest names that there are.
  TensorInfo const& info(std::string_view name) const {
    auto const found = places_.find(std::string{name});
    if (found == places_.end())
      throw file_error(concat(path_.string(), ": has no tensor ", detail::in_quotes(name), closest(name)));
    return tensors_[found->second];
  }

  /// The tensor in scalar `T`, each element rounded at most once. A single number is read as rank 1 with one element.
  template <class T, int Rank>
  Tensor<T, Rank> read(std::string_view name, int threads = 1) const {
    TensorInfo const& tensor = info(name);
    bool const number = tensor.shape.empty() && Rank == 1;
    if (!number && tensor.shape.size() != static_cast<std::size_t>(Rank))
      throw file_error(concat(tensor.file, ": tensor ", detail::in_quotes(name), " has shape ", to_string(tensor.shape), ", where ",
                              Rank, Rank == 1 ? " dimension is" : " dimensions are", " needed"));
    Shape<Rank> shape;
    for (int i = 0; i < Rank; ++i) shape[i] = number ? 1 : tensor.shape[static_cast<std::size_t>(i)];
    Tensor<T, Rank> out{shape};
    read_into(name, out.view(), threads);
    return out;
  }

  /// Throws `file_error` unless the tensor is there in this shape. A single number counts as a tensor of one element.
  template <int Rank>
  TensorInfo const& expect(std::string_view name, Shape<Rank> const& wanted) const {
    TensorInfo const& tensor = info(name);
    std::vector<Index> const shape(wanted.extent, wanted.extent + Rank);
    if (tensor.shape != shape && !(tensor.shape.empty() && shape == std::vector<Index>{1}))
      throw file_error(concat(tensor.file, ": tensor ", detail::in_quotes(name), " has shape ", to_string(tensor.shape), ", where ",
                              to_string(wanted), " is needed"));
    return tensor;
  }

  /// The same as `read` into memory that is there already, of any strides. The shapes must be equal.
  template <class T, int Rank>
  void read_into(std::string_view name, View<T, Rank> out, int threads = 1) const {
    TensorInfo const& tensor = expect(name, out.shape());
    try {
      copy(tensor, out, threads);
    } catch (value_error const& e) {
      throw file_error(concat(tensor.file, ": tensor ", detail::in_quotes(name), ": ", e.what()));
    }
  }

 private:
  static std::vector<TensorInfo> parse(std::span<std::byte const> bytes, std::string const& name);

  void open_shards(std::filesystem::path const& index);

  void add(std::filesystem::path const& file) {
    files_.push_back(std::make_shared<MappedFile>(file));
    adopt(parse(files_.back()->bytes(), file.string()));
  }

  void adopt(std::vector<TensorInfo> tensors) {
    for (auto& tensor : tensors) {
      auto const [place, fresh] = places_.emplace(tensor.name, tensors_.size());
      if (!fresh)
        throw file_error(concat(tensor.file, ": tensor ", detail::in_quotes(tensor.name), " is there a second time, after ",
                                tensors_[place->second].file));
      tensors_.push_back(std::move(tensor));
    }
  }

  /// Row by row of the innermost dimension; the whole tensor is one row when both sides are contiguous.
  template <class T, int Rank>
  static void copy(TensorInfo const& tensor, View<T, Rank> out, int threads) {
    if (out.size() == 0) return;
    if (out.contiguous() && tensor.strides == detail::row_major(tensor.shape))
      return convert(tensor.dtype, tensor.data, std::span{out.data(), static_cast<std::size_t>(out.size())}, threads);

    auto const size = size_of(tensor.dtype);
    Index const length = out.extent(Rank - 1), step = tensor.shape.empty() ? 1 : tensor.strides.back();
    std::vector<std::byte> gathered(static_cast<std::size_t>(length * size));
    std::vector<T> row(static_cast<std::size_t>(length));
    Index index[Rank]{};
    for (Index rows = out.size() / length; rows > 0; --rows) {
      Index from = 0, to = 0;
      for (int d = 0; d < Rank - 1; ++d) {
        from += index[d] * tensor.strides[static_cast<std::size_t>(d)];
        to += index[d] * out.stride(d);
      }
      std::byte const* source = tensor.data + from * size;
      if (step != 1) {
        for (Index i = 0; i < length; ++i)
          std::memcpy(gathered.data() + i * size, source + i * step * size, static_cast<std::size_t>(size));
        source = gathered.data();
      }
      convert(tensor.dtype, source, std::span{row});
      for (Index i = 0; i < length; ++i) out.data()[to + i * out.stride(Rank - 1)] = row[static_cast<std::size_t>(i)];
      for (int d = Rank - 2; d >= 0 && ++index[d] == out.extent(d); --d) index[d] = 0;
    }
  }

  /// "; the closest are 'a', 'b', 'c'": those that share the longest beginning and end with `name`.
  std::string closest(std::string_view name) const {
    auto const likeness = [&](std::string_view other) {
      std::size_t const shorter = std::min(name.size(), other.size());
      std::size_t front = 0, back = 0;
      while (front < shorter && name[front] == other[front]) ++front;
      while (back < shorter - front && name[name.size() - 1 - back] == other[other.size() - 1 - back]) ++back;
      return front + back;
    };
    std::vector<std::pair<std::size_t, std::size_t>> ranked;
    for (std::size_t i = 0; i < tensors_.size(); ++i) ranked.emplace_back(likeness(tensors_[i].name), i);
    std::size_t const shown = std::min<std::size_t>(3, ranked.size());
    std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(shown), ranked.end(),
                      [](auto const& a, auto const& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    std::string out = shown == 0 ? "; it holds no tensor at all" : shown == 1 ? "; the only one is " : "; the closest are ";
    for (std::size_t i = 0; i < shown; ++i) out += concat(i ? ", " : "", detail::in_quotes(tensors_[ranked[i].second].name));
    return out;
  }

  std::filesystem::path path_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> places_;
  std::vector<std::shared_ptr<MappedFile const>> files_;
};

inline std::vector<TensorInfo> TensorFile::parse(std::span<std::byte const> bytes, std::string const& name) {
  bool const torch = is_zip(bytes) || name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  return torch ? parse_torch(bytes, name) : parse_safetensors(bytes, name);
}

inline void TensorFile::open_shards(std::filesystem::path const& index) {
  MappedFile const file{index};
  auto const bytes = file.bytes();
  auto const entries = parse_shard_index({reinterpret_cast<char const*>(bytes.data()), bytes.size()}, index.string());

  std::map<std::string, std::vector<std::string const*>> shards;
  for (auto const& entry : entries) shards[entry.file].push_back(&entry.tensor);
  for (auto const& [name, mapped] : shards) {
    std::size_t const first = tensors_.size();
    add(index.parent_path() / name);
    std::set<std::string_view> present;
    for (std::size_t i = first; i < tensors_.size(); ++i) present.insert(tensors_[i].name);
    for (auto const* tensor : mapped)
      if (present.erase(*tensor) == 0)
        throw file_error(
            concat(index.string(), ": maps tensor ", detail::in_quotes(*tensor), " to ", name, ", which does not hold it"));
    if (!present.empty())
      throw file_error(concat(files_.back()->path(), ": holds tensor ", detail::in_quotes(*present.begin()), ", which ",
                              index.filename().string(), " does not map to it"));
  }
}

inline TensorFile TensorFile::open(std::filesystem::path const& path) {
  TensorFile out;
  out.path_ = path;
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    constexpr char const* wanted[]{"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"};
    auto const* const found = std::find_if(std::begin(wanted), std::end(wanted),
                                           [&](char const* name) { return std::filesystem::exists(path / name, ignored); });
    if (found == std::end(wanted))
      throw file_error(concat(path.string(), ": holds none of ", wanted[0], ", ", wanted[1], ", ", wanted[2]));
    out.path_ = path / *found;
  }
  if (out.path_.filename().string().ends_with(".index.json"))
    out.open_shards(out.path_);
  else
    out.add(out.path_);
  return out;
}

}  // namespace blackmamba::io
