#include <blackmamba/io/torch_checkpoint.hpp>

#include "io/files.hpp"

using namespace blackmamba;
using test::Zip;
using namespace test::pickle;

namespace {

std::string refused(Zip const& zip) { return test::refusal(zip.bytes, "x.bin"); }
std::string refused_pickle(std::string const& object) { return refused(test::torch(whole(object), {std::string(24, '\1')})); }
std::string refused_tensor(std::string const& tensor_pickle) { return refused_pickle(dict(text("w") + tensor_pickle)); }

std::string const six = test::le(1.0f) + test::le(2.0f) + test::le(3.0f) + test::le(4.0f) + test::le(5.0f) + test::le(6.0f);

/// {"model": OrderedDict(w = 2 x 3)}, the smallest checkpoint of the published form.
Zip small_file() {
  auto const inner = ordered_dict() + "(" + text("w") + tensor(storage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1}) + "u";
  return test::torch(whole(dict(text("iteration") + integer(7) + text("model") + inner + "}b")), {six});
}

}  // namespace

TEST_CASE("torch: the published form, a plain dict and a parameter give the same tensor") {
  auto const plain = tensor(storage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1});
  auto const parameter = global("torch._utils", "_rebuild_parameter") + tuple(plain + "\x88" + ordered_dict()) + "R";
  std::string const files[]{small_file().bytes, test::torch(whole(dict(text("w") + plain)), {six}).bytes,
                            test::torch(whole(dict(text("w") + parameter)), {six}).bytes};
  for (auto const& bytes : files) {
    auto const opened = test::open_bytes(bytes, "x.bin");
    CHECK(opened.file.names() == std::vector<std::string>{"w"});
    auto const w = opened.file.read<float, 2>("w");
    CHECK(w.shape() == Shape<2>{2, 3});
    CHECK(w(1, 0) == 4);
  }
}

TEST_CASE("torch: strides and offsets into a shared storage are followed") {
  auto const in = storage("FloatStorage", "0", 6);
  auto const opened = test::open_bytes(
      test::torch(whole(dict(text("transposed") + tensor(in, 0, {3, 2}, {1, 3}) + text("column") + tensor(in, 1, {2}, {3}) +
                             text("last") + tensor(in, 5, {}, {}) + text("none") + tensor(in, 6, {0, 5}, {9, 9}))),
                  {six})
          .bytes,
      "x.bin");
  auto const transposed = opened.file.read<double, 2>("transposed");
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 2; ++j) CHECK(transposed(i, j) == static_cast<double>(1 + i + 3 * j));
  CHECK(opened.file.read<bf16, 1>("column")(1) == 5.0f);
  CHECK(opened.file.read<float, 1>("last")(0) == 6);
  CHECK(opened.file.read<float, 2>("none").size() == 0);
}

TEST_CASE("torch: every storage type, and types of their own over bytes, are read") {
  std::pair<char const*, std::string> const cases[]{
      {"DoubleStorage", test::le(3.0)},
      {"FloatStorage", test::le(3.0f)},
      {"HalfStorage", test::le(half{3.0f})},
      {"BFloat16Storage", test::le(bf16{3.0f})},
      {"LongStorage", test::le(std::int64_t{3})},
      {"IntStorage", test::le(std::int32_t{3})},
      {"ShortStorage", test::le(std::int16_t{3})},
      {"CharStorage", test::le(std::int8_t{3})},
      {"ByteStorage", test::le(std::uint8_t{3})},
  };
  for (auto const& [type, bytes] : cases) {
    auto const opened =
        test::open_bytes(test::torch(whole(dict(text("w") + tensor(storage(type, "0", 1), 0, {1}, {1}))), {bytes}).bytes, "x.bin");
    CHECK(opened.file.read<float, 1>("w")(0) == 3);
  }
  auto const typed = global("torch._utils", "_rebuild_tensor_v3") +
                     tuple(storage("UntypedStorage", "0", 4) + integer(1) + tuple_of({1}) + tuple_of({1}) + "\x89" +
                           ordered_dict() + global("torch", "uint16")) +
                     "R";
  auto const opened = test::open_bytes(
      test::torch(whole(dict(text("w") + typed)), {test::le<std::uint16_t>(1) + test::le<std::uint16_t>(40'000)}).bytes, "x.bin");
  CHECK(opened.file.read<Index, 1>("w")(0) == 40'000);
}

TEST_CASE("torch: a checkpoint cut off at any length is refused") {
  std::string const good = small_file().bytes;
  REQUIRE(test::refusal(good, "x.bin") == "accepted");
  for (std::size_t length = 0; length < good.size(); ++length) {
    INFO(length);
    CHECK_SAYS(test::refusal(good.substr(0, length), "x.bin"), "x.bin: ");
  }
}

TEST_CASE("torch: a pickle cut off at any length is refused") {
  std::string const good = whole(dict(text("w") + tensor(storage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1})));
  REQUIRE(refused(test::torch(good, {six})) == "accepted");
  for (std::size_t length = 0; length < good.size(); ++length) {
    INFO(length);
    CHECK_SAYS(refused(test::torch(good.substr(0, length), {six})), "x.bin: the pickle ");
  }
}

TEST_CASE("torch: a pickle that calls anything is refused by the name of what it calls, and nothing is run") {
  test::Folder const folder;
  auto const touch = "touch " + (folder / "was-here").string();
  CHECK(refused_pickle(global("os", "system") + tuple(text(touch)) + "R") ==
        "x.bin: the pickle calls 'os.system': refused, nothing of it was run; only tensors in plain containers are read");
  CHECK(folder.names().empty());
  CHECK_SAYS(refused_pickle(global("builtins", "eval")), "calls 'builtins.eval': refused");
  CHECK_SAYS(refused_pickle(text("posix") + text("system") + "\x93"), "calls 'posix.system': refused");
  CHECK_SAYS(refused_pickle(global("torch", "load")), "calls 'torch.load': refused");
  CHECK_SAYS(refused_pickle(global("torch.FloatStorage", "__class__")), "refused");
  CHECK_SAYS(refused_pickle(global("collections", "OrderedDict\x1b")), "calls 'collections.OrderedDict?': refused");
  // A dict of tensors whose entries are calls of the allowed globals, wrongly used.
  CHECK_SAYS(refused_tensor(ordered_dict()), "tensor 'w' is no tensor");
  CHECK_SAYS(refused_tensor(global("torch", "FloatStorage") + ")R"), "tensor 'w' is no tensor");
  CHECK_SAYS(refused_tensor(global("torch._utils", "_rebuild_tensor_v2") + ")R"), "tensor 'w' is built from 0 values");
  CHECK_SAYS(refused_tensor(global("torch._utils", "_rebuild_tensor_v2") + tuple("NNNNNN") + "R"), "tensor 'w' lies in no storage");
  CHECK_SAYS(refused_tensor(global("torch._utils", "_rebuild_parameter") + ")R"), "tensor 'w' is built from 0 values");
}

TEST_CASE("torch: opcodes outside the list, and a machine used wrongly, are refused") {
  std::pair<std::string, char const*> const cases[]{
      {"i" + std::string{"os\nsystem\n"}, "uses opcode 105"},                 // INST
      {"(" + global("collections", "OrderedDict") + "o", "uses opcode 111"},  // OBJ
      {global("collections", "OrderedDict") + ")\x81", "uses opcode 129"},    // NEWOBJ
      {"\x82\x01", "uses opcode 130"},                                        // EXT1
      {"\xff", "uses opcode 255"},
      {"", "takes from an empty stack"},
      {"R", "takes from an empty stack"},
      {"(0", "takes from an empty stack"},
      {"NN", "ends with 1 objects too many"},
      {"t", "misses a mark"},
      {"Na", "looks at an empty stack"},
      {"NNa", "appends to what is no list"},
      {"NNNs", "sets items of what is no dict"},
      {"}(Nu", "sets a key without a value"},
      {"h\x05", "recalls number 5, which it never remembered"},
      {"N)R", "calls what is no global"},
      {global("torch", "float32") + "NR", "or with what is no tuple"},
      {"NNb", "sets attributes of what is no object"},
      {"NN\x93", "names a global by what is no text"},
      {"\x95" + test::le<std::uint64_t>(1u << 30), "has a frame of 1073741824 bytes"},
      {"\x80\x05", "is of protocol 5, not 2 to 4"},
      {"X" + test::le(0xffffffffu), "is cut off"},
      {"\x8d" + test::le(~std::uint64_t{0}), "is cut off"},
      {"cos", "is cut off"},
      {"q\x01", "looks at an empty stack"},
  };
  for (auto const& [object, message] : cases) CHECK_SAYS(refused_pickle(object), message);
  CHECK_SAYS(refused_pickle("N"), "holds no dict of tensors");
  CHECK_SAYS(refused_pickle("]"), "holds no dict of tensors");
  CHECK_SAYS(refused_pickle("}(NNu"), "has a tensor whose name is no text");
  CHECK_SAYS(refused_pickle(dict(text("w") + "\x8a\x09"
                                             "123456789")),
             "tensor 'w' is no tensor");
}

TEST_CASE("torch: deep and endless structures end in a message, not in the stack or the memory") {
  std::string deep(200'000, ']');
  deep += std::string(199'999, 'a');
  CHECK_SAYS(refused_pickle(deep), "holds no dict of tensors");
  CHECK_SAYS(refused_pickle("}q\x01(" + text("model") + "h\x01u"), "tensor 'model' is no tensor");  // a dict inside itself
  CHECK_SAYS(refused_pickle(std::string((1 << 22) + 1, 'N')), "makes more than 4194304 objects");
  // Each level holds the one before ten times: 10^30 leaves in 400 bytes.
  std::string laughs = "]q" + std::string(1, '\0');
  for (char i = 0; i < 30; ++i) {
    laughs += "](";
    for (int j = 0; j < 10; ++j) laughs += std::string("h") + i;
    laughs += std::string("eq") + static_cast<char>(i + 1);
  }
  CHECK_SAYS(refused_pickle(dict(text("w") + laughs)), "tensor 'w' is no tensor");
}

TEST_CASE("torch: a tensor that leaves its storage, or is larger than it, is refused with the numbers") {
  auto const in = storage("FloatStorage", "0", 6);
  CHECK_SAYS(refused_tensor(tensor(in, 0, {2, 4}, {4, 1})), "tensor 'w' has shape (2, 4), more elements than the 6 of its storage");
  CHECK_SAYS(refused_tensor(tensor(in, 1, {2, 3}, {3, 1})),
             "tensor 'w' of shape (2, 3) and strides (3, 1) from element 1 on leaves its storage of 6 elements");
  CHECK_SAYS(refused_tensor(tensor(in, 0, {2}, {2'000'000'000})), "leaves its storage");
  CHECK_SAYS(refused_tensor(tensor(in, 2'000'000'000, {1}, {1})), "leaves its storage");
  CHECK_SAYS(refused_tensor(tensor(in, 7, {0}, {1})), "leaves its storage");
  CHECK_SAYS(refused_tensor(tensor(in, -1, {1}, {1})), "begins at no whole number");
  CHECK_SAYS(refused_tensor(tensor(in, 0, {-1}, {1})), "has a shape with something that is no whole number");
  CHECK_SAYS(refused_tensor(tensor(in, 3, {2}, {-1})), "has a stride with something that is no whole number");
  CHECK_SAYS(refused_tensor(tensor(in, 0, {2}, {3, 1})), "has 1 extents and 2 strides");
  CHECK_SAYS(refused_tensor(tensor(in, 0, {2'000'000'000, 2'000'000'000, 2'000'000'000}, {0, 0, 0})), "more elements than the 6");
  CHECK_SAYS(refused_tensor(tensor(in, 0, std::vector<int>(17, 1), std::vector<int>(17, 1))), "no tuple of at most 16 numbers");
  CHECK_SAYS(refused_tensor(tensor(in, 0, {100}, {0})), "more elements than the 6 of its storage");
  std::string const huge = "\x8a\x08" + test::le(std::numeric_limits<std::int64_t>::max());
  auto const with = [&](std::string const& offset, std::string const& shape, std::string const& strides) {
    return global("torch._utils", "_rebuild_tensor_v2") +
           tuple(in + offset + tuple(shape) + tuple(strides) + "\x89" + ordered_dict()) + "R";
  };
  CHECK_SAYS(refused_tensor(with(huge, integer(2), integer(1))), "leaves its storage");
  CHECK_SAYS(refused_tensor(with(integer(0), integer(2) + integer(2), huge + huge)), "leaves its storage");
  CHECK_SAYS(refused_tensor(with(integer(0), huge + huge, integer(1) + integer(1))), "more elements than the 6");
  CHECK_SAYS(refused_tensor(with(integer(0), integer(0) + huge + huge, integer(1) + integer(1) + integer(1))),
             "more elements than the 6");
}

TEST_CASE("torch: a storage that is not there, or not of the size it says, is refused") {
  CHECK_SAYS(refused_tensor(tensor(storage("FloatStorage", "9", 6), 0, {1}, {1})),
             "lies in storage '9', which the archive does not hold");
  CHECK_SAYS(refused_tensor(tensor(storage("FloatStorage", "../byteorder", 6), 0, {1}, {1})), "which the archive does not hold");
  CHECK_SAYS(refused_tensor(tensor(storage("FloatStorage", "0", 7), 0, {1}, {1})),
             "lies in storage '0' of 7 elements, but that has 24 bytes");
  CHECK_SAYS(refused_tensor(tensor(storage("DoubleStorage", "0", 6), 0, {1}, {1})), "of 6 elements, but that has 24 bytes");
  CHECK_SAYS(refused_tensor(tensor(storage("FloatStorage", "0", -6), 0, {1}, {1})), "of -6 elements");
  CHECK_SAYS(refused_tensor(tensor(storage("float32", "0", 6), 0, {1}, {1})), "lies in no storage");
  CHECK_SAYS(refused_tensor(tensor(text("0") + "Q", 0, {1}, {1})), "lies in no storage");
  CHECK_SAYS(refused_tensor(tensor(storage("UntypedStorage", "0", 24), 0, {1}, {1})), "has none of its own");
}

TEST_CASE("torch: properties that change what the bytes mean are refused") {
  auto const negated = global("torch._utils", "_rebuild_tensor_v2") +
                       tuple(storage("FloatStorage", "0", 6) + integer(0) + tuple_of({1}) + tuple_of({1}) + "\x89" +
                             ordered_dict() + dict(text("neg") + "\x88")) +
                       "R";
  CHECK_SAYS(refused_tensor(negated), "has properties beside its type, shape and strides");
  CHECK_SAYS(refused_pickle(dict(text("w") + tensor(storage("FloatStorage", "0", 6), 0, {1}, {1}) + text("w") +
                                 tensor(storage("FloatStorage", "0", 6), 0, {1}, {1}))),
             "tensor 'w' is there a second time");
}

TEST_CASE("torch: other containers and byte orders are refused with advice") {
  CHECK_SAYS(test::refusal(whole("}"), "x.bin"),
             "is no zip archive, as torch.save has written since version 1.6; load it with torch and save it again");
  CHECK_SAYS(refused(test::torch(whole("}"), {}, "big")), "was written with byte order 'big'; only 'little' is read");
  CHECK_SAYS(refused(test::zip({{"readme", "x"}})), "is a zip archive with 0 entries */data.pkl");
  CHECK_SAYS(refused(test::zip({{"a/data.pkl", whole("}")}, {"b/data.pkl", whole("}")}})), "with 2 entries */data.pkl");
}

TEST_CASE("zip: 64-bit records are followed") {
  CHECK(test::refusal(test::zip({{"m/data.pkl", whole("}")}}, true).bytes, "x.bin") == "accepted");
  auto spoilt = test::zip({{"m/data.pkl", whole("}")}}, true);
  CHECK_SAYS(refused(spoilt.patch(spoilt.end - 12, ~std::uint64_t{0})), "has no zip64 record at byte 18446744073709551615");
}

TEST_CASE("zip: headers that disagree with each other or with the file are refused") {
  auto const good = test::zip({{"m/data.pkl", whole("}")}, {"m/data/0", six}});
  REQUIRE(refused(good) == "accepted");
  auto const spoil = [&](std::size_t place, auto value) {
    Zip copy = good;
    return refused(copy.patch(place, value));
  };
  std::size_t const local = good.local[1], central = good.central[1], end = good.end;
  CHECK_SAYS(spoil(central + 10, std::uint16_t{8}),
             "entry 'm/data/0' is compressed (method 8): torch.save stores entries as they are");
  CHECK_SAYS(spoil(local + 8, std::uint16_t{8}), "has another compression in its own header");
  CHECK_SAYS(spoil(central + 8, std::uint16_t{1}), "is encrypted");
  CHECK_SAYS(spoil(central + 24, 1u << 31), "is stored in 24 bytes, but has 2147483648");  // a bomb, if it were inflated
  CHECK_SAYS(spoil(local + 18, 25u), "has 24 bytes in the directory and 25 in its own header");
  CHECK_SAYS(spoil(local + 30, 'n'), "has another name in its own header");
  CHECK_SAYS(spoil(central + 42, 0xfffffff0u), "has no header at byte 4294967280");
  CHECK_SAYS(spoil(central + 42, 3u), "has no header at byte 3");
  CHECK_SAYS(spoil(central, 0u), "has no entry at byte");
  CHECK_SAYS(spoil(central + 28, std::uint16_t{0xffff}), "is shorter than its entry");
  CHECK_SAYS(spoil(end + 10, std::uint16_t{3}), "one part of an archive in several");
  CHECK_SAYS(spoil(end + 16, 0xfffffff0u), "does not end by byte");
  CHECK_SAYS(spoil(end + 12, 0u), "lists 2 entries in a directory of 0 bytes");
  CHECK_SAYS(spoil(local + 28, std::uint16_t{0xffff}), "but the archive's directory begins at byte");
  Zip one_less = good;
  one_less.patch(end + 8, std::uint16_t{1});
  CHECK_SAYS(refused(one_less.patch(end + 10, std::uint16_t{1})), "but its entries do not fill them");
  Zip larger = good;
  larger.patch(central + 20, 1u << 20);
  CHECK_SAYS(refused(larger.patch(central + 24, 1u << 20)), "has 1048576 bytes in the directory and 24 in its own header");
}

TEST_CASE("zip: names that leave the folder, and entries that share bytes or names, are refused") {
  for (char const* name : {"../evil", "m/../../evil", "/etc/passwd", "m\\evil", "m/..", ""})
    CHECK_SAYS(refused(test::zip({{"m/data.pkl", whole("}")}, {name, "x"}})),
               concat("an entry called '", name, "', which is no name inside a folder"));
  CHECK_SAYS(refused(test::zip({{"m/data.pkl", whole("}")}, {"m/data/0", "x"}, {"m/data/0", "y"}})),
             "has two entries called 'm/data/0'");
  auto overlapping = test::zip({{"m/data.pkl", whole("}")}, {"m/data/0", "x"}, {"m/data/0", "y"}});
  overlapping.patch(overlapping.central[2] + 42, static_cast<std::uint32_t>(overlapping.local[1]));
  CHECK_SAYS(refused(overlapping), "entries 'm/data/0' and 'm/data/0' overlap at byte");
}
