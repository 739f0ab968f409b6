// The table of the site's OpenPGP keys, made from what GnuPG says about them. For `key import
// --global`: the judge only reads it.
#pragma once

#include <string>

#include "policy/problem.h"
#include "policy/signature/pgp_table.h"

namespace postern::signature {

struct Compiled {
  PgpTable table;
  std::vector<std::string> left_out;  // "FINGERPRINT: why": no signature of these can be checked
};

// `directory` is a GNUPGHOME that holds exactly the keys of `ring`, the exported keys one after the
// other. Which of them are valid, revoked or may sign, and until when, is GnuPG's word; that a
// subkey vouches for its primary key is checked here, as GnuPG does when it checks a signature.
Outcome<Compiled> compile_table(const std::string& directory, const std::string& ring);

// Error: the bytes, armored or not, begin with a key of a version that cannot be used (6, 5, 3).
Outcome<> check_key_version(const std::string& bytes);

}  // namespace postern::signature
