#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/imagebuild/tree.h"

using postern::imagebuild::Children;
using postern::imagebuild::Inode;
using postern::imagebuild::InodeId;
using postern::imagebuild::Kind;
using postern::imagebuild::split_path;
using postern::imagebuild::Tree;

namespace {

Inode file(std::uint64_t size = 1) {
  Inode inode;
  inode.kind = Kind::kFile;
  inode.size = size;
  return inode;
}

Inode directory(std::uint16_t mode = 0755) {
  Inode inode;
  inode.kind = Kind::kDirectory;
  inode.mode = mode;
  return inode;
}

Inode symlink(std::string target) {
  Inode inode;
  inode.kind = Kind::kSymlink;
  inode.target = std::move(target);
  return inode;
}

bool put(Tree& tree, std::string_view path, Inode inode, std::uint32_t layer = 0) {
  const auto components = split_path(path);
  return components && tree.put(*components, std::move(inode), layer);
}

bool link(Tree& tree, std::string_view path, std::string_view target, std::uint32_t layer = 0) {
  return bool(tree.link(*split_path(path), *split_path(target), layer));
}

// What an archive reader does with a name.
bool whiteout(Tree& tree, std::string_view path, std::uint32_t layer) {
  const auto was = tree.apply_whiteout(*split_path(path), layer);
  return was && *was;
}

bool has(const Tree& tree, std::string_view path) {
  return tree.find_id(path, false) != Tree::kNone;
}

std::string listing(const Tree& tree) {
  std::string text;
  tree.walk([&](const std::string& path, InodeId) { text += path + " "; });
  return text;
}

}  // namespace

TEST_SUITE("frontend/build") {
  TEST_CASE("names of archive members are taken apart, and those that climb are refused") {
    struct Row {
      std::string_view name;
      bool taken;
      std::vector<std::string> parts;
    };

    const std::vector<Row> rows = {
        {"a/b", true, {"a", "b"}},
        {"/a//b/", true, {"a", "b"}},
        {"./a/./b", true, {"a", "b"}},
        {".", true, {}},
        {"/", true, {}},
        {"", true, {}},
        {"...", true, {"..."}},
        {"a/..b", true, {"a", "..b"}},
        {"new\nline", true, {"new\nline"}},
        {"\xff\xfe", true, {"\xff\xfe"}},
        {"..", false, {}},
        {"../x", false, {}},
        {"a/../../x", false, {}},
        {"/..", false, {}},
        {std::string_view("a\0b", 3), false, {}},
    };
    for (const Row& row : rows) {
      CAPTURE(row.name);
      const auto parts = split_path(row.name);
      CHECK(parts.has_value() == row.taken);
      if (parts) {
        CHECK(*parts == row.parts);
      }
    }
    CHECK(split_path(std::string(255, 'n')));
    CHECK_FALSE(split_path(std::string(256, 'n')));
    std::string deep;
    for (int i = 0; i < 2048; ++i) {
      deep += "d/";
    }
    CHECK(split_path(deep));
    CHECK_FALSE(split_path(deep + "d"));
  }

  TEST_CASE("a whiteout hides what lower layers left, wherever it stands in its own layer") {
    for (const bool mark_first : {true, false}) {
      CAPTURE(mark_first);
      Tree tree;
      CHECK(put(tree, "d/old", file()));
      CHECK(put(tree, "d/both", file(10)));
      CHECK(put(tree, "gone", file()));
      if (mark_first) {
        CHECK(whiteout(tree, "d/.wh.both", 1));
        CHECK(put(tree, "d/both", file(20), 1));
      } else {
        CHECK(put(tree, "d/both", file(20), 1));
        CHECK(whiteout(tree, "d/.wh.both", 1));
      }
      CHECK(whiteout(tree, ".wh.gone", 1));
      CHECK(whiteout(tree, ".wh.never-there", 1));
      CHECK(whiteout(tree, "no/such/.wh.directory", 1));
      CHECK_FALSE(has(tree, "gone"));
      CHECK(has(tree, "d/old"));
      CHECK(tree.find("d/both")->size == 20);
      CHECK_FALSE(has(tree, "no"));
    }
  }

  TEST_CASE("an opaque directory loses the lower layers' children and keeps its own") {
    Tree tree;
    CHECK(put(tree, "d/lower", file()));
    CHECK(put(tree, "d/sub/lower", file()));
    CHECK(put(tree, "d/sub/upper", file(), 1));
    CHECK(whiteout(tree, "d/.wh..wh..opq", 1));
    CHECK(put(tree, "d/upper", file(), 1));
    CHECK(listing(tree) == " d d/sub d/sub/upper d/upper ");
  }

  TEST_CASE("a whiteout of a directory that its own layer fills again keeps the new files only") {
    Tree tree;
    CHECK(put(tree, "d/lower", file()));
    CHECK(put(tree, "d/new", file(), 1));
    CHECK(whiteout(tree, ".wh.d", 1));
    CHECK(listing(tree) == " d d/new ");
  }

  TEST_CASE("whiteouts that name no file are refused, bookkeeping marks mean nothing") {
    Tree tree;
    CHECK(put(tree, "keep", file()));
    CHECK_FALSE(tree.apply_whiteout({".wh."}, 1));
    CHECK_FALSE(tree.apply_whiteout({".wh..."}, 1));
    CHECK_FALSE(tree.apply_whiteout({".wh.."}, 1));
    CHECK(whiteout(tree, ".wh..wh.plnk", 1));
    CHECK(whiteout(tree, ".wh..wh.aufs", 1));
    CHECK(has(tree, "keep"));
    const auto plain = tree.apply_whiteout({"keep"}, 1);
    REQUIRE(plain);
    CHECK_FALSE(*plain);
  }

  TEST_CASE("a directory over a directory keeps its children, everything else replaces") {
    Tree tree;
    CHECK(put(tree, "d", directory(0755)));
    CHECK(put(tree, "d/x", file()));
    CHECK(put(tree, "d", directory(0700), 1));
    CHECK(has(tree, "d/x"));
    CHECK(tree.find("d")->mode == 0700);
    CHECK(put(tree, "d", file(), 2));
    CHECK_FALSE(has(tree, "d/x"));
    CHECK(put(tree, "d/y", file(), 3));  // a file in the way of a directory
    CHECK(listing(tree) == " d d/y ");
  }

  TEST_CASE("links in the way are followed inside the image and never out of it") {
    Tree tree;
    CHECK(put(tree, "usr/lib", directory()));
    CHECK(put(tree, "lib", symlink("usr/lib")));
    CHECK(put(tree, "lib/x.so", file(), 1));
    CHECK(has(tree, "usr/lib/x.so"));
    CHECK(put(tree, "abs", symlink("/usr")));
    CHECK(put(tree, "abs/y", file(), 1));
    CHECK(has(tree, "usr/y"));
    CHECK(put(tree, "out", symlink("../../../../etc")));
    CHECK(put(tree, "out/passwd", file(), 1));
    CHECK(has(tree, "etc/passwd"));
    CHECK(put(tree, "dangling", symlink("not/there")));
    CHECK(put(tree, "dangling/z", file(), 1));
    CHECK(has(tree, "not/there/z"));
    CHECK(tree.find("lib/x.so") == tree.find("usr/lib/x.so"));
  }

  TEST_CASE("a loop of links ends with an error, not with the stack") {
    Tree tree;
    CHECK(put(tree, "a", symlink("b")));
    CHECK(put(tree, "b", symlink("a")));
    CHECK_FALSE(put(tree, "a/x", file()));
    CHECK(tree.find("a/x") == nullptr);
    CHECK(tree.find("a") == nullptr);
    CHECK(put(tree, "s", symlink(".")));
    CHECK_FALSE(put(
        tree, "s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/x",
        file()));
  }

  TEST_CASE("nothing but a directory replaces the root") {
    Tree tree;
    CHECK(put(tree, "keep", file()));
    CHECK_FALSE(put(tree, ".", symlink("/etc")));
    CHECK_FALSE(put(tree, "/", file()));
    CHECK(put(tree, "./", directory(0711)));
    CHECK(tree[tree.root()].mode == 0711);
    CHECK(has(tree, "keep"));
  }

  TEST_CASE("hard links join names within and across layers, and outlive the first name") {
    Tree tree;
    CHECK(put(tree, "a", file(5)));
    CHECK(link(tree, "b", "a"));
    CHECK(link(tree, "sub/c", "a", 1));
    CHECK(whiteout(tree, ".wh.a", 2));
    CHECK_FALSE(has(tree, "a"));
    CHECK(tree.find("b") == tree.find("sub/c"));
    tree.finish();
    CHECK(tree.find("b")->links == 2);
    CHECK_FALSE(link(tree, "x", "missing"));
    CHECK_FALSE(link(tree, "x", "sub"));
    CHECK_FALSE(link(tree, "x", "."));
    CHECK_FALSE(link(tree, ".", "b"));
    // The target itself is not followed: the link is linked.
    CHECK(put(tree, "sym", symlink("b")));
    CHECK(link(tree, "sym2", "sym"));
    CHECK(tree.find("sym2", false)->kind == Kind::kSymlink);
  }

  TEST_CASE("attributes without end are refused before they fill the memory") {
    Tree tree(std::size_t{1} << 20);
    int taken = 0;
    for (; taken < 100; ++taken) {
      Inode inode = file();
      inode.attributes.push_back({"user.x", std::string(1 << 16, 'x')});
      // Replacing gives nothing back: an archive that does this without end is no image.
      if (!put(tree, "same", std::move(inode))) {
        break;
      }
    }
    CHECK(taken == 15);
  }

  TEST_CASE("files without end are refused before they fill the memory") {
    constexpr std::size_t kMost = std::size_t{1} << 20;
    for (const char* prefix : {"", "d/", "link"}) {
      Tree tree(kMost);
      CHECK(put(tree, "first", file()));
      std::size_t taken = 0;
      const bool links = std::string_view(prefix) == "link";
      while (taken < kMost) {
        const std::string name = prefix + std::to_string(taken) + (links ? "" : "/x");
        if (links ? !link(tree, name, "first") : !put(tree, name, file())) {
          break;
        }
        ++taken;
      }
      // A name takes a node of the map at least, a file takes an inode too.
      CHECK(taken > kMost / 1000);
      CHECK(taken <= kMost / (links ? sizeof(Children::value_type) : 2 * sizeof(Inode)));
    }
  }

  TEST_CASE("only reachable files count") {
    Tree tree;
    CHECK(put(tree, "a/b", file()));
    CHECK(put(tree, "a", file(), 1));
    CHECK(tree.finish() == 2);  // the root and a
    CHECK(tree[tree.find_id("a")].links == 1);
  }
}
