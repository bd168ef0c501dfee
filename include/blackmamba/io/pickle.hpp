#pragma once
/// \file
/// Reader of Python pickles as data. A pickle is a program; this reader records what the program would build and runs none of it:
/// a call becomes an object that says "a call of this with that". What the calls mean is for the caller to say, for those it knows.
///
/// Source: CPython's Lib/pickletools.py, which documents every opcode of protocols 2 to 4.

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <blackmamba/io/tensor_info.hpp>

namespace blackmamba::io {

/// An object of a pickle. Others are meant by their place in `Pickle::objects`, so cycles and shared parts are harmless.
struct PickleObject {
  enum class Kind { none, boolean, integer, real, text, tuple, list, dict, global, call, persistent, opaque };
  using Ref = std::uint32_t;

  Kind kind = Kind::none;
  std::int64_t integer = 0;  ///< boolean, integer
  double real = 0;
  std::string_view text;  ///< text; global: "module.name" is `module` and `text`
  std::string_view module;
  std::vector<Ref> items;  ///< tuple, list; dict: key, value, key, value; call: of what, with which tuple, then items set
                           ///< on the result as in a dict; persistent: the identifier
};

struct Pickle {
  std::vector<PickleObject> objects;
  PickleObject::Ref root = 0;

  PickleObject const& operator[](PickleObject::Ref ref) const { return objects[ref]; }
};

namespace detail {

class PickleReader {
 public:
  static constexpr std::size_t most_objects = std::size_t{1} << 22, most_steps = std::size_t{1} << 26;

  /// \param allowed  (module, name) -> whether a global may be named at all
  template <class Allowed>
  static Pickle read(std::span<std::byte const> bytes, std::string const& file, Allowed&& allowed) {
    PickleReader reader{bytes, file};
    while (reader.step(allowed)) {
    }
    return std::move(reader.out_);
  }

 private:
  using Kind = PickleObject::Kind;
  using Ref = PickleObject::Ref;

  PickleReader(std::span<std::byte const> bytes, std::string const& file) : bytes_{bytes}, file_{file} {}

  template <class... Parts>
  [[noreturn]] void fail(Parts const&... parts) const {
    throw file_error(concat(file_, ": the pickle ", parts...));
  }

  template <class U>
  U number() {
    U value;
    std::memcpy(&value, text(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text(std::uint64_t size) {
    if (size > bytes_.size() - place_) fail("is cut off at byte ", bytes_.size());
    std::string_view const out{reinterpret_cast<char const*>(bytes_.data()) + place_, static_cast<std::size_t>(size)};
    place_ += static_cast<std::size_t>(size);
    return out;
  }
  std::string_view line() {
    std::string_view const rest{reinterpret_cast<char const*>(bytes_.data()) + place_, bytes_.size() - place_};
    auto const end = rest.find('\n');
    if (end == std::string_view::npos) fail("is cut off at byte ", bytes_.size());
    place_ += end + 1;
    return rest.substr(0, end);
  }

  PickleObject& make(Kind kind) {
    if (out_.objects.size() >= most_objects) fail("makes more than ", most_objects, " objects");
    stack_.push_back(static_cast<Ref>(out_.objects.size()));
    out_.objects.push_back({});
    out_.objects.back().kind = kind;
    return out_.objects.back();
  }
  void make_integer(std::int64_t value) { make(Kind::integer).integer = value; }

  /// What a mark does not protect.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Ref pop() {
    if (stack_.size() <= floor()) fail("takes from an empty stack at byte ", place_);
    Ref const top = stack_.back();
    stack_.pop_back();
    return top;
  }
  Ref top() const {
    if (stack_.size() <= floor()) fail("looks at an empty stack at byte ", place_);
    return stack_.back();
  }
  /// All that was pushed since the last mark.
  std::vector<Ref> pop_marked() {
    if (marks_.empty()) fail("misses a mark at byte ", place_);
    auto const begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Ref> out(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return out;
  }

  void make_tuple(std::size_t size) {
    std::vector<Ref> items(size);
    for (std::size_t i = size; i-- > 0;) items[i] = pop();
    make(Kind::tuple).items = std::move(items);
  }
  void append(std::vector<Ref> const& items) {
    PickleObject& list = out_.objects[top()];
    if (list.kind != Kind::list) fail("appends to what is no list at byte ", place_);
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void set_items(std::vector<Ref> const& items) {
    PickleObject& dict = out_.objects[top()];
    if (dict.kind != Kind::dict && dict.kind != Kind::call) fail("sets items of what is no dict at byte ", place_);
    if (items.size() % 2) fail("sets a key without a value at byte ", place_);
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }

  void remember(std::uint64_t key) { memo_[key] = top(); }
  void recall(std::uint64_t key) {
    auto const found = memo_.find(key);
    if (found == memo_.end()) fail("recalls number ", key, ", which it never remembered");
    stack_.push_back(found->second);
  }

  template <class Allowed>
  void make_global(std::string_view module, std::string_view name, Allowed& allowed) {
    if (!allowed(module, name))
      fail("calls ", in_quotes(concat(module, ".", name)),
           ": refused, nothing of it was run; only tensors in plain containers are read");
    PickleObject& global = make(Kind::global);
    global.module = module;
    global.text = name;
  }

  std::string_view text_on_top() {
    PickleObject const& object = out_.objects[pop()];
    if (object.kind != Kind::text) fail("names a global by what is no text at byte ", place_);
    return object.text;
  }

  /// A two's complement number of any length; those of more than 64 bits are kept as something unknown.
  void make_long(std::size_t size) {
    auto const digits = text(size);
    if (size > 8) {
      make(Kind::opaque);
      return;
    }
    std::uint64_t value = size && static_cast<unsigned char>(digits.back()) & 0x80 ? ~std::uint64_t{0} : 0;
    for (std::size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(digits[i]);
    make_integer(static_cast<std::int64_t>(value));
  }

  /// One opcode; false at the end.
  template <class Allowed>
  bool step(Allowed& allowed) {
    if (++steps_ > most_steps) fail("has more than ", most_steps, " steps");
    auto const opcode = number<std::uint8_t>();
    switch (opcode) {
      case 0x80:  // PROTO
        if (auto const protocol = number<std::uint8_t>(); protocol < 2 || protocol > 4)
          fail("is of protocol ", static_cast<int>(protocol), ", not 2 to 4");
        break;
      case 0x95:  // FRAME
        if (auto const size = number<std::uint64_t>(); size > bytes_.size() - place_)
          fail("has a frame of ", size, " bytes where ", bytes_.size() - place_, " are left");
        break;
      case '.': {  // STOP
        out_.root = pop();
        if (!stack_.empty()) fail("ends with ", stack_.size(), " objects too many");
        return false;
      }
      case '(':  // MARK
        marks_.push_back(stack_.size());
        break;
      case '0':  // POP
        pop();
        break;
      case '1':  // POP_MARK
        pop_marked();
        break;
      case 'N':  // NONE
        make(Kind::none);
        break;
      case 0x88:  // NEWTRUE
        make(Kind::boolean).integer = 1;
        break;
      case 0x89:  // NEWFALSE
        make(Kind::boolean);
        break;
      case 'J':  // BININT
        make_integer(number<std::int32_t>());
        break;
      case 'K':  // BININT1
        make_integer(number<std::uint8_t>());
        break;
      case 'M':  // BININT2
        make_integer(number<std::uint16_t>());
        break;
      case 0x8a:  // LONG1
        make_long(number<std::uint8_t>());
        break;
      case 'G':  // BINFLOAT, big-endian
        make(Kind::real).real = std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>()));
        break;
      case 0x8c:  // SHORT_BINUNICODE
        make(Kind::text).text = text(number<std::uint8_t>());
        break;
      case 'X':  // BINUNICODE
        make(Kind::text).text = text(number<std::uint32_t>());
        break;
      case 0x8d:  // BINUNICODE8
        make(Kind::text).text = text(number<std::uint64_t>());
        break;
      case 'U':  // SHORT_BINSTRING
      case 'C':  // SHORT_BINBYTES
        text(number<std::uint8_t>());
        make(Kind::opaque);
        break;
      case 'T':  // BINSTRING
      case 'B':  // BINBYTES
        text(number<std::uint32_t>());
        make(Kind::opaque);
        break;
      case ')':  // EMPTY_TUPLE
        make_tuple(0);
        break;
      case 0x85:  // TUPLE1
      case 0x86:  // TUPLE2
      case 0x87:  // TUPLE3
        make_tuple(opcode - 0x84u);
        break;
      case 't': {  // TUPLE
        auto items = pop_marked();
        make(Kind::tuple).items = std::move(items);
        break;
      }
      case ']':  // EMPTY_LIST
        make(Kind::list);
        break;
      case 'a':  // APPEND
        append({pop()});
        break;
      case 'e':  // APPENDS
        append(pop_marked());
        break;
      case '}':  // EMPTY_DICT
        make(Kind::dict);
        break;
      case 's': {  // SETITEM
        Ref const value = pop();
        Ref const key = pop();
        set_items({key, value});
        break;
      }
      case 'u':  // SETITEMS
        set_items(pop_marked());
        break;
      case 'h':  // BINGET
        recall(number<std::uint8_t>());
        break;
      case 'j':  // LONG_BINGET
        recall(number<std::uint32_t>());
        break;
      case 'q':  // BINPUT
        remember(number<std::uint8_t>());
        break;
      case 'r':  // LONG_BINPUT
        remember(number<std::uint32_t>());
        break;
      case 0x94:  // MEMOIZE
        remember(memo_.size());
        break;
      case 'c': {  // GLOBAL
        auto const module = line();
        make_global(module, line(), allowed);
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        auto const name = text_on_top();
        make_global(text_on_top(), name, allowed);
        break;
      }
      case 'R': {  // REDUCE
        Ref const arguments = pop();
        Ref const callee = pop();
        if (out_.objects[callee].kind != Kind::global || out_.objects[arguments].kind != Kind::tuple)
          fail("calls what is no global, or with what is no tuple, at byte ", place_);
        make(Kind::call).items = {callee, arguments};
        break;
      }
      case 'b':  // BUILD: attributes of an object, which nothing here has a use for
        pop();
        if (out_.objects[top()].kind != Kind::call) fail("sets attributes of what is no object at byte ", place_);
        break;
      case 'Q': {  // BINPERSID
        Ref const identifier = pop();
        make(Kind::persistent).items = {identifier};
        break;
      }
      default:
        fail("uses opcode ", static_cast<int>(opcode), " at byte ", place_ - 1,
             ", which no checkpoint of plain tensors needs: refused");
    }
    return true;
  }

  std::span<std::byte const> bytes_;
  std::string const& file_;
  std::size_t place_ = 0, steps_ = 0;
  std::vector<Ref> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Ref> memo_;
  Pickle out_;
};

}  // namespace detail

/// Reads a pickle of protocol 2 to 4 without running any of it. `allowed(module, name)` says which globals it may so much as name.
/// Throws `file_error` naming the first other global, the first opcode outside the list, or what is malformed.
template <class Allowed>
Pickle parse_pickle(std::span<std::byte const> bytes, std::string const& file, Allowed&& allowed) {
  return detail::PickleReader::read(bytes, file, allowed);
}

}  // namespace blackmamba::io
