// The execution control list: which signed images a site lets its users run (ecl.toml).
//
// The file is Apptainer's, read as it is (activated, legacyinsecure, [[execgroup]] with tagname,
// mode, dirpath, keyfp; key names in any case; unknown keys ignored), and two keys more in a group:
//
//   keysha256 = [ … ]   PEM keys and X.509 certificates: 64 hex digits, the SHA-256 of the key's
//                       SubjectPublicKeyInfo or of the certificate (both DER); colons are allowed,
//                       as `openssl x509 -fingerprint -sha256` prints them
//   binding = "hash"        admit what was verified at the start of the run: Apptainer's behaviour.
//                           Whoever may write the file can still change it afterwards.
//           | "unwritable"  … and the file belongs to root and nobody else may write it
//           | "sealed"      only with a seal, that is, every block is checked as it is read
//
// A stronger binding than the rule asks for always satisfies it. Without the key: "hash".
//
// It fails closed: a list that is active admits nothing but what a group admits, and a file that
// does not parse is an error for the caller to deny on. Unlike the reference, an empty list of
// keys in a white mode is an error (there, whitestrict with no keys admits any signed image).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/ecl/profile.h"
#include "policy/problem.h"
#include "protocol/refusal.h"
#include "protocol/verdict.h"

namespace postern::ecl {

enum class Mode : std::uint8_t {
  kWhitelist,    // at least one of the keys signed every object
  kWhitestrict,  // every one of the keys did
  kBlacklist,    // none of the keys signed any object
};

// How the bytes that were verified are tied to the bytes that run; weakest first.
enum class Binding : std::uint8_t { kHash, kUnwritable, kSealed };

struct Group {
  std::string tag;  // label, no effect
  Mode mode = Mode::kWhitelist;
  std::string directory;          // the image's directory, exactly; empty: any
  std::vector<std::string> keys;  // identities: "pgp:<40 hex>" or "sha256:<64 hex>", lower case
  Binding binding = Binding::kHash;
  unsigned line = 0;  // of the [[execgroup]] in the file
};

struct EclConfig {
  bool activated = false;
  bool legacy_insecure = false;  // judge object signatures of the old form, of the root partition
  std::string file;              // for messages
  std::vector<Group> groups;
  std::vector<Profile> profiles;  // the first that fits counts

  // Whether an image that no rule admits may run, with a profile.
  [[nodiscard]] bool boxes_unsigned() const noexcept;
};

inline constexpr std::size_t kMaxEclBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxEclGroups = 1024;
inline constexpr std::size_t kMaxProfiles = 256;

// Reads the text of an ecl.toml; `file` is its name in messages ("ecl.toml:12: …"). Pure. Checked
// whether or not the list is activated, as the reference does.
Outcome<EclConfig> parse_ecl(std::string_view text, std::string_view file);

// Every directory named must exist and be its own absolute, symlink-free form (realpath(3)).
Outcome<Ok> check_directories(const EclConfig& config);

// What the root (or an image laid over it) is made of. Only a SIF file can carry a signature.
enum class ContainerKind : std::uint8_t { kSif, kSquashfs, kExt, kDirectory, kFuse };

// What the caller of decide_ecl has found out. policy/ecl/facts.h gathers it for a SIF file.
struct ImageFacts {
  ContainerKind kind = ContainerKind::kSif;
  // Directory that the image was proved to lie in (ecl::locate); empty: not known, so that only a
  // group without a directory matches.
  std::string directory;
  // A finding that no rule forgives: unsigned group, failed digest, unknown form … `problem` in
  // words, `problem_code` kEclSignature, kSeal or kEclUnsigned. None: every check passed.
  RefusalCode problem_code = RefusalCode::kNone;
  std::string problem;
  std::vector<std::string> valid;        // identities that validly signed every group
  std::vector<std::string> claimed;      // … that some signature claims, validly or not
  std::vector<std::string> unvalidated;  // … of signatures that could not be validated
  bool any_valid = false;                // the root partition's group has a valid signature
  Binding binding = Binding::kHash;      // what the image offers
};

// Why, for `ecl check --explain`, the audit line and the refusal's words.
struct EclDecision {
  Decision decision = Decision::kRefuse;
  RefusalCode reason = RefusalCode::kNone;  // kNone where allowed
  std::optional<std::size_t> group;         // index into groups; none: no rule was reached
  unsigned line = 0;                        // that rule's line, 0 where none
  std::string why;                          // one line
  // The bytes may be handed to the kernel's squashfs ("trusted", DESIGN §4): validly signed by a
  // key of the site's keyring, and bound as kUnwritable or kSealed.
  bool trusted = false;
  std::optional<std::size_t> profile;  // index into profiles; none: nothing is taken away
  bool boxed = false;                  // no rule admits it, and that profile does
};

// The group that judges images in `directory`: the first whose directory equals it, else the first
// that names none.
std::optional<std::size_t> find_group(const EclConfig& config, std::string_view directory);

// Pure: the decision for these facts. A config that is not activated allows everything.
EclDecision decide_ecl(const EclConfig& config, const ImageFacts& facts);

std::string_view name_of(Mode mode);
std::string_view name_of(Binding binding);

}  // namespace postern::ecl
