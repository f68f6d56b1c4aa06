//! Newtypes for the three counters of a change.

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The largest value accepted from outside: 2^53 - 1, exact in a JavaScript number and a thousand
            /// times below the 2^63 - 1 at which a genuine cr-sqlite stops for ever.
            pub const MAX: Self = Self((1 << 53) - 1);

            /// The next value.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value as SQLite stores it.
            #[must_use]
            pub const fn to_sql(self) -> i64 {
                self.0.cast_signed()
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A replica's own count of its commits; 0 before the first. Local order only: it says nothing across replicas.
    DbVersion
}
counter! {
    /// The version of one cell. Larger wins. Counted by one in `Lamport` mode, an [`Hlc`](crate::Hlc) in `Hlc` mode.
    ColVersion
}
counter! {
    /// How often a row has been created and deleted: odd means alive, even means deleted, 0 means never seen.
    CausalLength
}

impl CausalLength {
    /// Whether a row of this causal length exists.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        self.0 % 2 == 1
    }

    /// Whether a row of this causal length has been deleted.
    #[must_use]
    pub const fn is_deleted(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(2)
    }
}
