#pragma once
/// \file
/// The numbers and names of a run that is to be resumed, as JSON that a person can read.

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include <blackmamba/io/atomic_file.hpp>
#include <blackmamba/io/json.hpp>

namespace blackmamba::io {

/// Named integers, numbers and texts.
struct StateFile {
  std::map<std::string, Index> integers;
  std::map<std::string, double> numbers;  ///< every bit comes back, of NaN too
  std::map<std::string, std::string> texts;
  std::string file{};  ///< where it was read, for messages

  /// The value of this name. Throws `file_error` if there is none.
  Index integer(std::string const& name) const { return find(integers, "integer", name); }
  double number(std::string const& name) const { return find(numbers, "number", name); }
  std::string const& text(std::string const& name) const { return find(texts, "text", name); }

 private:
  template <class T>
  T const& find(std::map<std::string, T> const& in, char const* kind, std::string const& name) const {
    auto const found = in.find(name);
    if (found == in.end()) throw file_error(concat(file, ": has no ", kind, " ", detail::in_quotes(name)));
    return found->second;
  }
};

namespace detail {

/// JSON has no NaN and no infinity: they are written as their 16 hexadecimal digits, in quotes.
inline Json number_to_json(double x) {
  if (std::isfinite(x)) return x;
  constexpr char digits[] = "0123456789abcdef";
  auto const bits = std::bit_cast<std::uint64_t>(x);
  std::string out;
  for (int shift = 60; shift >= 0; shift -= 4) out += digits[bits >> shift & 15];
  return out;
}

inline double number_from_json(Json const& value, std::string const& where) {
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) {
    auto const& text = value.get_ref<std::string const&>();
    std::uint64_t bits = 0;
    auto const [end, failure] = std::from_chars(text.data(), text.data() + text.size(), bits, 16);
    if (failure == std::errc{} && end == text.data() + text.size() && text.size() == 16) return std::bit_cast<double>(bits);
  }
  throw file_error(concat(where, " is ", describe(value), ", not a number or 16 hexadecimal digits"));
}

}  // namespace detail

/// Writes `{"integers": {…}, "numbers": {…}, "texts": {…}}`, atomically. Throws `file_error` if the folder cannot be written, and
/// `value_error` if a name or a text is not UTF-8.
inline void write_state(std::filesystem::path const& path, StateFile const& state) {
  detail::Json json = {{"integers", state.integers}, {"numbers", detail::Json::object()}, {"texts", state.texts}};
  for (auto const& [name, value] : state.numbers) json["numbers"][name] = detail::number_to_json(value);
  std::string text;
  try {
    text = json.dump(2);
  } catch (detail::Json::exception const&) {
    throw value_error(concat("write_state: ", path.string(), ": a name or a text is not UTF-8"));
  }
  AtomicFile file{path};
  file.write(text + "\n");
  file.commit();
}

/// Reads it back, bit for bit. Throws `file_error` naming what is not as `write_state` writes it.
inline StateFile read_state(std::filesystem::path const& path) {
  MappedFile const mapped{path};
  auto const bytes = mapped.bytes();
  std::string const where = path.string();
  auto const json = detail::parse_json({reinterpret_cast<char const*>(bytes.data()), bytes.size()}, where);
  StateFile out;
  out.file = where;
  auto const each = [&](char const* kind, auto&& take) {
    if (!json.is_object() || !json.contains(kind) || !json[kind].is_object())
      throw file_error(concat(where, ": has no object '", kind, "'"));
    for (auto const& [name, value] : json[kind].items()) take(name, value, concat(where, ": ", detail::in_quotes(name)));
  };
  each("integers", [&](std::string const& name, detail::Json const& value, std::string const& at) {
    if (!value.is_number_integer() || (value.is_number_unsigned() && !detail::is_index(value)))
      throw file_error(concat(at, " is ", detail::describe(value), ", not an integer of 64 bits"));
    out.integers[name] = value.get<Index>();
  });
  each("numbers", [&](std::string const& name, detail::Json const& value, std::string const& at) {
    out.numbers[name] = detail::number_from_json(value, at);
  });
  each("texts", [&](std::string const& name, detail::Json const& value, std::string const& at) {
    if (!value.is_string()) throw file_error(concat(at, " is ", detail::describe(value), ", not a text"));
    out.texts[name] = value.get<std::string>();
  });
  return out;
}

}  // namespace blackmamba::io
