#pragma once
/// \file
/// Errors carry values. Every exception of the library derives from `error`, and its text is a sentence that names the
/// argument or the file, what it was, and what it should have been.

#include <charconv>
#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

namespace blackmamba {

/// Base of every exception that the library throws.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Two arguments disagree on an extent, or one has an extent that the operation does not take.
struct shape_error : error {
  using error::error;
};

/// An argument's value is outside what the operation is defined for.
struct value_error : error {
  using error::error;
};

/// A file cannot be read, is not what it says it is, or cannot be written.
struct file_error : error {
  using error::error;
};

/// Memory that was planned is used up.
struct memory_error : error {
  using error::error;
};

namespace detail {

inline void append(std::string& out, std::string_view text) { out += text; }

/// Numbers, characters and booleans; a template, so that a pointer never becomes a bool.

template <class T>
requires(std::integral<T> || std::floating_point<T>) void append(std::string& out, T value) {
  if constexpr (std::same_as<T, bool>) {
    out += value ? "true" : "false";
  } else if constexpr (std::same_as<T, char>) {
    out += value;
  } else {
    char digits[64];
    out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  }
}

}  // namespace detail

/// One string from parts: text, numbers, booleans. Numbers in their shortest exact form.
template <class... Parts>
std::string concat(Parts const&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

}  // namespace blackmamba
