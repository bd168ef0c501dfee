#pragma once
/// \file
/// JSON from strangers: parsed under limits on depth and on the number of values, without duplicate keys, failing by `file_error`.

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <blackmamba/core/error.hpp>
#include <blackmamba/io/tensor_info.hpp>

namespace blackmamba::io::detail {

using Json = nlohmann::json;

struct JsonLimits {
  int depth = 8;
  std::size_t values = std::size_t{1} << 22;
};

/// Parses one document. `where` begins every message ("model.safetensors: the header").
inline Json parse_json(std::string_view text, std::string const& where, JsonLimits const& limits = {}) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open, to find duplicates
  std::size_t values = 0;
  auto const watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= limits.depth) throw file_error(concat(where, " nests deeper than ", limits.depth, " levels"));
      if (event == Event::object_start) keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      auto const& key = parsed.get_ref<std::string const&>();
      if (!keys.back().insert(key).second) throw file_error(concat(where, " names ", in_quotes(key), " twice"));
    }
    if (++values > limits.values) throw file_error(concat(where, " holds more than ", limits.values, " values"));
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (Json::parse_error const& e) {
    throw file_error(concat(where, " is not JSON: it stops making sense at byte ", e.byte, " of ", text.size()));
  } catch (Json::exception const& e) {
    throw file_error(concat(where, " holds a number that no double can: ", e.what()));
  }
}

/// A whole number of at least 0, as an Index.
inline bool is_index(Json const& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
}

/// What a value is, for messages: short, whatever it holds.
inline std::string describe(Json const& value) {
  if (value.is_string()) return in_quotes(value.get_ref<std::string const&>());
  if (value.is_number() || value.is_boolean() || value.is_null()) return value.dump();
  return value.is_array() ? "a list" : "an object";
}

}  // namespace blackmamba::io::detail
