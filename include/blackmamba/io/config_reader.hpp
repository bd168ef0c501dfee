#pragma once
/// \file
/// Typed access to the keys of a `config.json`: every failure names the file, the key and the value.

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <blackmamba/io/json.hpp>

namespace blackmamba::io::detail {

/// `Infinity`, `-Infinity` and `NaN`, which Python writes though JSON has no such numbers, as the objects by which newer versions
/// of `transformers` stand for them.
inline std::string without_bare_infinities(std::string_view text) {
  constexpr std::string_view words[]{"-Infinity", "Infinity", "NaN"};
  std::string out;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    char const c = text[i];
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\' && i + 1 < text.size()) out += text[i++];
    std::string_view found;
    if (!in_string)
      for (auto const word : words)
        if (found.empty() && text.substr(i).starts_with(word)) found = word;
    if (found.empty())
      out += text[i++];
    else
      out += concat("{\"__float__\": \"", found, "\"}"), i += found.size();
  }
  return out;
}

class ConfigReader {
 public:
  static constexpr std::size_t longest = 1 << 24;   ///< bytes of a configuration; real ones have a few thousand
  static constexpr Index largest = Index{1} << 31;  ///< of any size; products are the model's to check
  static constexpr Index most_layers = Index{1} << 16;

  ConfigReader(std::string_view text, std::string const& file) : file_{file} {
    if (text.size() > longest)
      throw file_error(concat(file, ": has ", text.size(), " bytes, more than the ", longest, " of any configuration"));
    json_ = parse_json(without_bare_infinities(text), concat(file, ": the configuration"), {.depth = 32, .values = 1 << 20});
    if (!json_.is_object()) throw file_error(concat(file, ": holds ", describe(json_), ", not an object"));
  }

  std::string const& file() const { return file_; }

  /// There, and not null.
  bool present(std::string const& key) const {
    auto const found = json_.find(key);
    return found != json_.end() && !found->is_null();
  }

  [[noreturn]] void fail(std::string const& key, std::string const& what) const {
    auto const found = json_.find(key);
    throw file_error(concat(file_, ": ", key, ", ", found == json_.end() ? "not given" : describe(*found), ", ", what));
  }

  /// A size: 1 to 2^31.
  Index size(std::string const& key) const { return whole(key, largest); }
  Index size(std::string const& key, Index fallback) const { return present(key) ? size(key) : fallback; }
  Index layers(std::string const& key) const { return whole(key, most_layers); }

  /// A finite number above 0.
  double positive(std::string const& key) const {
    auto const value = number(required(key));
    if (!value || !(*value > 0) || std::isinf(*value)) fail(key, "is not a finite number above 0");
    return *value;
  }

  /// int(factor · size), which must be a size again.
  Index product(std::string const& key, double factor, Index size) const {
    double const value = std::floor(factor * static_cast<double>(size));
    if (!(value >= 1 && value <= static_cast<double>(largest)))
      throw file_error(concat(file_, ": ", key, ", ", factor, ", times hidden_size ", size, " is not between 1 and 2^31"));
    return static_cast<Index>(value);
  }

  bool flag(std::string const& key) const {
    Json const& value = required(key);
    if (!value.is_boolean()) fail(key, "is neither true nor false");
    return value.get<bool>();
  }
  bool flag(std::string const& key, bool fallback) const { return present(key) ? flag(key) : fallback; }

  std::string text(std::string const& key, std::string const& fallback) const {
    if (!present(key)) return fallback;
    Json const& value = json_.at(key);
    if (!value.is_string()) fail(key, "is not text");
    return value.get<std::string>();
  }
  bool is_text(std::string const& key, std::string_view expected) const { return present(key) && json_.at(key) == expected; }

  /// A list of texts, or one text as the list of its characters; empty if it is missing.
  std::vector<std::string> texts(std::string const& key) const {
    std::vector<std::string> out;
    if (!present(key)) return out;
    Json const& value = json_.at(key);
    if (value.is_string()) {
      for (char const c : value.get_ref<std::string const&>()) out.emplace_back(1, c);
      return out;
    }
    if (!value.is_array()) fail(key, "is neither a list nor text");
    for (Json const& entry : value) {
      if (!entry.is_string()) throw file_error(concat(file_, ": ", key, "[", out.size(), "] is ", describe(entry), ", not text"));
      out.push_back(entry.get<std::string>());
    }
    return out;
  }

  Json const& object(std::string const& key) const {
    Json const& value = required(key);
    if (!value.is_object()) fail(key, "is not an object");
    return value;
  }

  /// `count` numbers, infinities allowed.
  std::vector<double> numbers(std::string const& key, std::size_t count) const {
    Json const& list = required(key);
    std::vector<double> out;
    if (list.is_array() && list.size() == count)
      for (Json const& entry : list)
        if (auto const value = number(entry)) out.push_back(*value);
    if (out.size() != count) fail(key, concat("is not a list of ", count, " numbers"));
    return out;
  }

 private:
  Json const& required(std::string const& key) const {
    auto const found = json_.find(key);
    if (found == json_.end()) throw file_error(concat(file_, ": has no ", key));
    return *found;
  }

  Index whole(std::string const& key, Index most) const {
    Json const& value = required(key);
    if (!is_index(value) || value.get<Index>() < 1 || value.get<Index>() > most)
      fail(key, concat("is not a whole number between 1 and ", most));
    return value.get<Index>();
  }

  static std::optional<double> number(Json const& value) {
    if (value.is_number()) return value.get<double>();
    if (!value.is_object() || value.size() != 1 || !value.contains("__float__")) return std::nullopt;
    if (value["__float__"] == "Infinity") return std::numeric_limits<double>::infinity();
    if (value["__float__"] == "-Infinity") return -std::numeric_limits<double>::infinity();
    return std::nullopt;
  }

  std::string file_;
  Json json_;
};

}  // namespace blackmamba::io::detail
