//! What the shop sells, for how much, and how much of it is there.

/// An article.
pub(super) struct Product {
    pub(super) sku: &'static str,
    /// In euro cents.
    price: u64,
    /// Pieces that come in at a time.
    delivery: u64,
}

const fn product(sku: &'static str, price: u64, delivery: u64) -> Product {
    Product { sku, price, delivery }
}

/// All articles. Those that come in by few pieces run out often.
pub(super) const PRODUCTS: [Product; 24] = [
    product("mug-blue", 1290, 120),
    product("mug-red", 1290, 80),
    product("tea-assam-250", 990, 200),
    product("tea-sencha-100", 1450, 60),
    product("coffee-lima-500", 1190, 150),
    product("teapot-cast-iron", 5900, 12),
    product("kettle-copper", 8900, 6),
    product("lamp-desk", 4900, 30),
    product("lamp-floor", 12900, 8),
    product("notebook-a5", 650, 300),
    product("notebook-a4", 890, 200),
    product("pen-gel-black", 220, 500),
    product("pen-fountain", 3900, 20),
    product("ink-blue-50", 780, 90),
    product("chair-oak", 18900, 5),
    product("desk-oak", 39900, 3),
    product("stool-birch", 7900, 10),
    product("poster-sea", 1500, 70),
    product("poster-night", 1500, 70),
    product("bag-linen", 2400, 60),
    product("towel-linen", 1690, 90),
    product("candle-bee", 1150, 140),
    product("clock-wall", 4500, 15),
    product("plant-monstera", 2950, 18),
];

/// Units of a currency for 100 euro cents, in the smallest unit of that currency. Fixed: prices are stable.
fn per_euro(currency: &str) -> u64 {
    match currency {
        "GBP" => 86,
        "USD" => 112,
        // The yen has no smaller unit.
        "JPY" => 170,
        "CHF" => 95,
        "PLN" => 430,
        "SEK" => 1120,
        "BRL" => 620,
        _ => 100,
    }
}

/// Prices and stock of one shop.
pub(super) struct Catalogue {
    per_euro: u64,
    stock: [u64; PRODUCTS.len()],
    /// The step at which a sold-out article comes in again.
    due: [Option<u64>; PRODUCTS.len()],
}

impl Catalogue {
    pub(super) fn new(currency: &str) -> Catalogue {
        let mut stock = [0; PRODUCTS.len()];
        stock.iter_mut().zip(&PRODUCTS).for_each(|(stock, product)| *stock = product.delivery);
        Catalogue { per_euro: per_euro(currency), stock, due: [None; PRODUCTS.len()] }
    }

    /// In the smallest unit of the currency; always the same for an article.
    pub(super) fn price(&self, product: usize) -> u64 {
        (PRODUCTS[product].price * self.per_euro).div_ceil(100)
    }

    pub(super) fn stock(&self, product: usize) -> u64 {
        self.stock[product]
    }

    /// Takes as many pieces as are there, at most `wanted`, and says how many.
    pub(super) fn take(&mut self, product: usize, wanted: u64) -> u64 {
        let taken = wanted.min(self.stock[product]);
        self.stock[product] -= taken;
        taken
    }

    pub(super) fn put_back(&mut self, product: usize, pieces: u64) {
        self.stock[product] += pieces;
    }

    /// Has an article come in again at a step, unless it is on its way already.
    pub(super) fn order(&mut self, product: usize, step: u64) {
        self.due[product].get_or_insert(step);
    }

    /// What has come in by this step: articles, and how much of each there is now.
    pub(super) fn restock(&mut self, step: u64) -> Vec<(usize, u64)> {
        let mut arrived = Vec::new();
        for (at, due) in self.due.iter_mut().enumerate() {
            if due.is_some_and(|due| due <= step) {
                *due = None;
                self.stock[at] += PRODUCTS[at].delivery;
                arrived.push((at, self.stock[at]));
            }
        }
        arrived
    }
}
