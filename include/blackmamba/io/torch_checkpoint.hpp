#pragma once
/// \file
/// Reader of torch.save's checkpoints: a zip of storages and a pickle that says which tensors lie in them. No code ever runs.

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <blackmamba/io/pickle.hpp>
#include <blackmamba/io/tensor_info.hpp>
#include <blackmamba/io/zip.hpp>

namespace blackmamba::io {

namespace detail {

/// Storages and element types by the names that torch has for them.
constexpr std::optional<DType> torch_dtype(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, DType>, 25> known{{
      {"DoubleStorage", DType::f64},
      {"FloatStorage", DType::f32},
      {"HalfStorage", DType::f16},
      {"BFloat16Storage", DType::bf16},
      {"LongStorage", DType::i64},
      {"IntStorage", DType::i32},
      {"ShortStorage", DType::i16},
      {"CharStorage", DType::i8},
      {"ByteStorage", DType::u8},
      {"BoolStorage", DType::boolean},
      {"float64", DType::f64},
      {"float32", DType::f32},
      {"float16", DType::f16},
      {"bfloat16", DType::bf16},
      {"float8_e4m3fn", DType::f8_e4m3},
      {"float8_e5m2", DType::f8_e5m2},
      {"int64", DType::i64},
      {"int32", DType::i32},
      {"int16", DType::i16},
      {"int8", DType::i8},
      {"uint64", DType::u64},
      {"uint32", DType::u32},
      {"uint16", DType::u16},
      {"uint8", DType::u8},
      {"bool", DType::boolean},
  }};
  for (auto const& [known_name, dtype] : known)
    if (known_name == name) return dtype;
  return std::nullopt;
}

class TorchReader {
 public:
  TorchReader(std::span<std::byte const> bytes, std::string const& file) : file_{file} {
    std::string_view root;
    auto const zip = parse_zip(bytes, file);
    for (auto const& entry : zip)
      if (entry.name == "data.pkl" || (entry.name.ends_with("/data.pkl") && entry.name.find('/') == entry.name.rfind('/'))) {
        root = entry.name.substr(0, entry.name.size() - std::string_view{"data.pkl"}.size());
        pickled_ = entry.data;
        ++pickles_;
      }
    if (pickles_ != 1)
      throw file_error(concat(file, ": is a zip archive with ", pickles_, " entries */data.pkl, not one: no checkpoint of torch"));
    for (auto const& entry : zip)
      if (entry.name.starts_with(root)) entries_.emplace(entry.name.substr(root.size()), entry.data);
    if (auto const order = entries_.find("byteorder"); order != entries_.end() && as_text(order->second) != "little")
      throw file_error(
          concat(file, ": was written with byte order ", in_quotes(as_text(order->second)), "; only 'little' is read"));
    pickle_ = parse_pickle(pickled_, file, allowed);
  }

  std::vector<TensorInfo> tensors() const {
    PickleObject const* dict = &pickle_[pickle_.root];
    if (!is_dict(*dict)) fail("holds no dict of tensors");
    // The published form keeps the tensors one level down, beside the state of the training run.
    for_each(*dict, [&](PickleObject const& key, PickleObject const& value) {
      if (key.kind == Kind::text && key.text == "model" && is_dict(value)) dict = &value;
    });
    std::vector<TensorInfo> out;
    for_each(*dict, [&](PickleObject const& key, PickleObject const& value) {
      if (key.kind != Kind::text) fail("has a tensor whose name is no text");
      out.push_back(tensor(key.text, value));
    });
    return out;
  }

 private:
  using Kind = PickleObject::Kind;

  struct Storage {
    std::optional<DType> dtype;  ///< absent: bytes without a type of their own
    std::span<std::byte const> data;
  };

  static std::string_view as_text(std::span<std::byte const> bytes) {
    return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  }

  static bool allowed(std::string_view module, std::string_view name) {
    if (module == "torch._utils")
      return name == "_rebuild_tensor_v2" || name == "_rebuild_tensor_v3" || name == "_rebuild_parameter";
    if (module == "collections") return name == "OrderedDict";
    if (module == "torch.storage") return name == "UntypedStorage";
    return module == "torch" && (torch_dtype(name) || name == "UntypedStorage");
  }

  template <class... Parts>
  [[noreturn]] void fail(Parts const&... parts) const {
    throw file_error(concat(file_, ": ", parts...));
  }

  bool is_call(PickleObject const& object, std::string_view name) const {
    return object.kind == Kind::call && pickle_[object.items[0]].text == name;
  }
  bool is_dict(PickleObject const& object) const { return object.kind == Kind::dict || is_call(object, "OrderedDict"); }

  template <class F>
  void for_each(PickleObject const& dict, F&& f) const {
    for (std::size_t i = dict.kind == Kind::call ? 2 : 0; i + 1 < dict.items.size(); i += 2)
      f(pickle_[dict.items[i]], pickle_[dict.items[i + 1]]);
  }

  /// The arguments of a call, as many as named or more.
  std::vector<PickleObject const*> arguments(PickleObject const& call, std::size_t least, std::string const& where) const {
    std::vector<PickleObject const*> out;
    for (auto const ref : pickle_[call.items[1]].items) out.push_back(&pickle_[ref]);
    if (out.size() < least) fail(where, " is built from ", out.size(), " values, not from at least ", least);
    return out;
  }

  Storage storage(PickleObject const& object, std::string const& where) const {
    auto const wrong = [&] { fail(where, " lies in no storage of this checkpoint"); };
    if (object.kind != Kind::persistent) wrong();
    PickleObject const& id = pickle_[object.items[0]];
    if (id.kind != Kind::tuple || id.items.size() != 5) wrong();
    auto const part = [&](std::size_t i) -> PickleObject const& { return pickle_[id.items[i]]; };
    PickleObject const &word = part(0), &type = part(1), &key = part(2), &count = part(4);
    if (word.kind != Kind::text || word.text != "storage" || type.kind != Kind::global || key.kind != Kind::text ||
        count.kind != Kind::integer)
      wrong();
    Storage out;
    if (type.text != "UntypedStorage") {
      if (!type.text.ends_with("Storage")) wrong();
      out.dtype = torch_dtype(type.text);
    }
    auto const found = entries_.find(concat("data/", key.text));
    if (found == entries_.end()) fail(where, " lies in storage ", in_quotes(key.text), ", which the archive does not hold");
    out.data = found->second;
    Index bytes = 0;
    if (count.integer < 0 || __builtin_mul_overflow(count.integer, out.dtype ? size_of(*out.dtype) : 1, &bytes) ||
        bytes != static_cast<Index>(out.data.size()))
      fail(where, " lies in storage ", in_quotes(key.text), " of ", count.integer, " elements, but that has ", out.data.size(),
           " bytes");
    return out;
  }

  std::vector<Index> indices(PickleObject const& tuple, char const* what, std::string const& where) const {
    std::vector<Index> out;
    if (tuple.kind != Kind::tuple || tuple.items.size() > 16)
      fail(where, " has a ", what, " that is no tuple of at most 16 numbers");
    for (auto const ref : tuple.items) {
      if (pickle_[ref].kind != Kind::integer || pickle_[ref].integer < 0)
        fail(where, " has a ", what, " with something that is no whole number");
      out.push_back(pickle_[ref].integer);
    }
    return out;
  }

  TensorInfo tensor(std::string_view name, PickleObject const& value) const {
    std::string const where = concat("tensor ", in_quotes(name));
    PickleObject const* built = &value;
    if (is_call(*built, "_rebuild_parameter")) built = arguments(*built, 1, where)[0];
    bool const typed_here = is_call(*built, "_rebuild_tensor_v3");
    if (!typed_here && !is_call(*built, "_rebuild_tensor_v2")) fail(where, " is no tensor");
    auto const parts = arguments(*built, typed_here ? 7 : 6, where);

    TensorInfo out;
    out.name = name;
    out.file = file_;
    auto const from = storage(*parts[0], where);
    auto const dtype = typed_here && parts[6]->kind == Kind::global ? torch_dtype(parts[6]->text) : from.dtype;
    if (!dtype) fail(where, " lies in a storage without a type and has none of its own");
    out.dtype = *dtype;
    // Flags such as "negated" would change what the bytes mean.
    if (parts.size() > (typed_here ? 7u : 6u) &&
        !(parts.back()->kind == Kind::none || (is_dict(*parts.back()) && parts.back()->items.empty())))
      fail(where, " has properties beside its type, shape and strides, which are not read");
    if (parts[1]->kind != Kind::integer || parts[1]->integer < 0) fail(where, " begins at no whole number");
    out.shape = indices(*parts[2], "shape", where);
    out.strides = indices(*parts[3], "stride", where);
    place(out, parts[1]->integer, from.data, where);
    return out;
  }

  /// Checks that every element lies in the storage, and points the tensor there.
  void place(TensorInfo& tensor, Index offset, std::span<std::byte const> storage, std::string const& where) const {
    if (tensor.shape.size() != tensor.strides.size())
      fail(where, " has ", tensor.shape.size(), " extents and ", tensor.strides.size(), " strides");
    Index const held = static_cast<Index>(storage.size()) / size_of(tensor.dtype), count = checked_elements(tensor.shape);
    // A stride of 0 would let a few bytes stand for any number of elements.
    if (count < 0 || count > held)
      fail(where, " has shape ", to_string(tensor.shape), ", more elements than the ", held, " of its storage");
    auto const contiguous = row_major(tensor.shape);
    Index last = 0;
    bool overflow = false;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (count == 0 || tensor.shape[i] == 1) tensor.strides[i] = contiguous[i];  // it is never multiplied with anything but 0
      Index reach;
      overflow |= __builtin_mul_overflow(std::max<Index>(tensor.shape[i], 1) - 1, tensor.strides[i], &reach);
      overflow |= __builtin_add_overflow(last, reach, &last);
    }
    Index end = 0;
    overflow |= __builtin_add_overflow(offset, count == 0 ? 0 : last + 1, &end);
    if (overflow || end > held)
      fail(where, " of shape ", to_string(tensor.shape), " and strides ", to_string(tensor.strides), " from element ", offset,
           " on leaves its storage of ", held, " elements");
    tensor.data = storage.data() + offset * size_of(tensor.dtype);
    tensor.bytes = (end - offset) * size_of(tensor.dtype);
  }

  std::string const& file_;
  std::unordered_map<std::string, std::span<std::byte const>> entries_;  ///< by name below the archive's one folder
  std::span<std::byte const> pickled_;
  int pickles_ = 0;
  Pickle pickle_;
};

}  // namespace detail

/// Whether a file begins as a zip archive does.
inline bool is_zip(std::span<std::byte const> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "PK\x03\x04", 4) == 0;
}

/// The tensors of a torch checkpoint that lies in memory, in the order of its dict. The memory must outlive them.
///
/// Reads `{"model": {name: tensor}}`, the published form, and a plain `{name: tensor}`. Throws `file_error` naming file, tensor and
/// numbers if the archive or the pickle is malformed, a tensor leaves its storage, or the pickle names anything but tensors, their
/// storages and ordered dicts: `os.system`, say, of which nothing is run.
inline std::vector<TensorInfo> parse_torch(std::span<std::byte const> bytes, std::string const& file) {
  if (!is_zip(bytes))
    throw file_error(
        concat(file, ": is no zip archive, as torch.save has written since version 1.6; load it with torch and save it again"));
  return detail::TorchReader{bytes, file}.tensors();
}

}  // namespace blackmamba::io
