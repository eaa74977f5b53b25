# shellcheck shell=bash
# What level 0 needs beside bash, coreutils and util-linux: installs it where the
# caller may, else says what to type.

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# missing_for_lab: the Debian packages of what is not there, on one line.
missing_for_lab() {
	local packages=()
	command -v mmdebstrap >/dev/null || packages+=(mmdebstrap)
	[[ -f $DEBIAN_KEYRING ]] || packages+=(debian-archive-keyring)
	# For the user namespace of a caller who is not root.
	[[ $(id -u) == 0 ]] || command -v newuidmap >/dev/null || packages+=(uidmap)
	echo "${packages[*]}"
}

install_packages() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	apt-get install -y --no-install-recommends "$@"
}

# need MISSING: has what MISSING, a function like missing_for_lab, finds missing.
need() {
	local packages
	packages=$("$1")
	[[ -z $packages ]] && return
	command -v apt-get >/dev/null ||
		die "missing, by the names of Debian's packages: $packages; install them"
	[[ $(id -u) == 0 ]] ||
		die "missing: $packages; type: sudo apt-get install $packages"
	(
		flock 9
		packages=$("$1")
		[[ -z $packages ]] && exit
		# shellcheck disable=SC2086 # words
		step packages "apt-get install $packages" install_packages $packages
		packages=$("$1")
		[[ -z $packages ]] || die "still missing after apt-get install: $packages"
	) 9>"$CACHE/lock.packages"
}

need_prerequisites() { need missing_for_lab; }
